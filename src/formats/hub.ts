// The hub over HTTP: what a repository holds at a revision, and its files into the cache, resumed after a cut, held to
// their hash, one process at a time. With train/trackers/http.ts the only file that reaches a network. The cache's layout is
// hub-cache.ts, which files a model needs fetch-named.ts, the way back hub-push.ts.

import { createHash } from "node:crypto";
import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { UserError } from "../util/errors.ts";
import { type HubRepo, type HubSettings, RepoCache } from "./hub-cache.ts";
import { isJsonObject, type JsonObject } from "./json.ts";
import { makeFolder } from "./make-folder.ts";
import { syncFile } from "./sync-file.ts";

export interface HubHooks {
  readonly warn?: (message: string) => void;
  /** Bytes of a file so far and in all; all is 0 where the server does not say. */
  readonly progress?: (path: string, done: number, total: number) => void;
  readonly note?: (message: string) => void;
}

const listingCapBytes = 64 * 2 ** 20;
const filesCap = 100_000;
/** Attempts in a row that bring not one byte. */
const fruitlessAttempts = 5;
const connectTimeoutMs = 30_000;

/**
 * Fetches the files of a repository that `wanted` chooses from all their paths; returns the snapshot's folder. Offline,
 * or when the hub cannot be reached, what the cache has serves.
 */
export async function fetchSnapshot(
  settings: HubSettings,
  repo: HubRepo,
  wanted: (paths: readonly string[]) => readonly string[],
  hooks: HubHooks = {},
): Promise<{ readonly folder: string; readonly paths: readonly string[] | undefined }> {
  const cache = new RepoCache(settings, repo);
  const known = cache.knownCommit();
  if (settings.offline) {
    if (known === undefined)
      throw new UserError(
        `${repo.name}@${repo.revision} is not in the cache ${settings.cacheFolder}, and HF_HUB_OFFLINE is set`,
      );
    return { folder: cache.snapshot(known), paths: undefined };
  }
  let listing: Listing;
  try {
    listing = await listRepo(settings, repo);
  } catch (error) {
    if (!(error instanceof Unreachable) || known === undefined) throw error;
    hooks.warn?.(`${error.message}; using the copy in the cache`);
    return { folder: cache.snapshot(known), paths: undefined };
  }
  const paths = wanted(listing.paths);
  for (const path of paths) {
    if (!(await cache.has(listing.commit, path)))
      await fetchFile(settings, repo, cache, listing.commit, path, hooks);
  }
  await cache.rememberCommit(listing.commit);
  return { folder: cache.snapshot(listing.commit), paths };
}

interface Listing {
  readonly commit: string;
  readonly paths: readonly string[];
}

async function listRepo(settings: HubSettings, repo: HubRepo): Promise<Listing> {
  const url = `${settings.endpoint}/api/${repo.type}s/${repo.name}/revision/${encodeURIComponent(repo.revision)}`;
  const json = await readJson(await request(settings, url, {}, repo), url);
  const { sha, siblings } = json;
  if (
    typeof sha !== "string" ||
    !/^[0-9a-f]{40}$/.test(sha) ||
    !Array.isArray(siblings) ||
    siblings.length > filesCap
  )
    throw new UserError(`${url}: expected a commit ("sha") and its files ("siblings").`);
  const paths = siblings.flatMap((file) => {
    const path = isJsonObject(file) ? file.rfilename : undefined;
    return typeof path === "string" && isSafePath(path) ? [path] : [];
  });
  return { commit: sha, paths };
}

/** Relative, without parents, control characters or Windows' separators: it cannot lead out of the snapshot. */
function isSafePath(path: string): boolean {
  const parts = path.split("/");
  return (
    path.length <= 1024 &&
    !/[\\:\p{Cc}]/u.test(path) &&
    parts.every((part) => !["", ".", ".."].includes(part))
  );
}

async function fetchFile(
  settings: HubSettings,
  repo: HubRepo,
  cache: RepoCache,
  commit: string,
  path: string,
  hooks: HubHooks,
): Promise<void> {
  const prefix = repo.type === "dataset" ? "datasets/" : "";
  const encoded = path.split("/").map(encodeURIComponent).join("/");
  const url = `${settings.endpoint}/${prefix}${repo.name}/resolve/${commit}/${encoded}`;
  const { etag, size } = await describeFile(settings, url, repo);
  const present = () =>
    stat(cache.blob(etag)).then(
      () => true,
      () => false,
    );
  if (!(await present())) {
    await cache.locked(
      etag,
      async () => {
        if (!(await present())) await download(settings, repo, cache, { url, path, etag, size }, hooks);
      },
      () => hooks.note?.(`${path}: another process is fetching it; waiting`),
    );
  }
  await cache.link(commit, path, etag);
}

interface RemoteFile {
  readonly url: string;
  readonly path: string;
  readonly etag: string;
  readonly size: number | undefined;
}

/** A file's hash and size. Large files redirect to storage, and the hub's own answer says what they are. */
async function describeFile(
  settings: HubSettings,
  url: string,
  repo: HubRepo,
): Promise<Pick<RemoteFile, "etag" | "size">> {
  let at = url;
  for (let hops = 0; hops < 5; hops++) {
    const response = await request(settings, at, { method: "HEAD", redirect: "manual" }, repo);
    const linked = response.headers.get("x-linked-etag");
    const location = response.headers.get("location");
    if (linked === null && location !== null && response.status >= 300 && response.status < 400) {
      const next = new URL(location, at);
      if (next.origin === new URL(settings.endpoint).origin) {
        at = next.href;
        continue;
      }
    }
    const etag = (linked ?? response.headers.get("etag") ?? "").replace(/^W\//, "").replaceAll('"', "");
    if (!/^[\w-]{1,128}$/.test(etag))
      throw new UserError(
        `${url}: the server names no hash (ETag) for this file, so a download could not be checked.`,
      );
    const length =
      response.headers.get("x-linked-size") ??
      (linked === null ? response.headers.get("content-length") : null);
    const size = length === null ? undefined : Number(length);
    return { etag, size: Number.isSafeInteger(size) ? size : undefined };
  }
  throw new UserError(`${url}: redirects without end.`);
}

async function download(
  settings: HubSettings,
  repo: HubRepo,
  cache: RepoCache,
  file: RemoteFile,
  hooks: HubHooks,
): Promise<void> {
  const blob = cache.blob(file.etag);
  const partial = `${blob}.lowrank-incomplete`;
  await cache.writing(() => makeFolder(`${cache.folder}/blobs`));
  const handle = await cache.writing(() => open(partial, "a+"));
  try {
    await cache.writing(() => fill(settings, repo, handle, file, hooks));
    await syncFile(handle);
  } finally {
    await handle.close();
  }
  const problem = await checkHash(partial, file);
  if (problem !== undefined) {
    await rm(partial, { force: true });
    throw new UserError(`${repo.name}: ${file.path}: ${problem} The bytes were thrown away; try again.`);
  }
  await cache.writing(() => rename(partial, blob));
}

/** Appends until the file is whole, asking again from where the last attempt ended. */
async function fill(
  settings: HubSettings,
  repo: HubRepo,
  handle: FileHandle,
  { url, path, size }: RemoteFile,
  hooks: HubHooks,
): Promise<void> {
  let done = (await handle.stat()).size;
  if (size !== undefined && done > size) {
    await handle.truncate(0);
    done = 0;
  }
  for (let fruitless = 0; size === undefined || done < size || (size === 0 && fruitless === 0); ) {
    const before = done;
    try {
      const headers = done > 0 ? { Range: `bytes=${done}-` } : undefined;
      const response = await request(settings, url, { headers }, repo, [416]);
      const resumes = response.status === 206 && rangeStart(response) === done;
      if (response.status === 416 || (done > 0 && !resumes)) {
        await handle.truncate(0);
        done = 0;
        if (response.status !== 200) {
          await response.body?.cancel();
          if (++fruitless >= fruitlessAttempts)
            throw new Unreachable(`${url}: the server refuses to go on with it`);
          continue;
        }
      }
      for await (const chunk of response.body ?? []) {
        await handle.appendFile(chunk);
        done += chunk.byteLength;
        if (size !== undefined && done > size)
          throw new UserError(
            `${repo.name}: ${path}: the server sends more than the ${size} bytes it announced.`,
          );
        hooks.progress?.(path, done, size ?? 0);
      }
      if (size === undefined || done === size) return;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (error instanceof UserError && !(error instanceof Unreachable)) throw error;
      if (code === "ENOSPC" || code === "EDQUOT" || code === "EROFS") throw error;
      if (done === before && fruitless + 1 >= fruitlessAttempts)
        throw new Unreachable(
          `${url}: the connection broke ${fruitlessAttempts} times in a row (${(error as Error).message})`,
        );
    }
    fruitless = done > before ? 0 : fruitless + 1;
    if (fruitless >= fruitlessAttempts) throw new Unreachable(`${url}: the server sends nothing`);
    if (fruitless > 0) await sleep(200 * 2 ** fruitless);
  }
}

function rangeStart(response: Response): number | undefined {
  const match = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
  return match ? Number(match[1]) : undefined;
}

/** LFS files are named by SHA-256, small ones by Git's SHA-1 of "blob <size>\0" and the bytes. */
async function checkHash(path: string, { etag, size }: RemoteFile): Promise<string | undefined> {
  const actual = (await stat(path)).size;
  if (size !== undefined && actual !== size) return `${actual} bytes came, ${size} were announced.`;
  const algorithm = /^[0-9a-f]{64}$/.test(etag) ? "sha256" : /^[0-9a-f]{40}$/.test(etag) ? "sha1" : undefined;
  if (!algorithm) return undefined;
  const hash = createHash(algorithm);
  if (algorithm === "sha1") hash.update(`blob ${actual}\0`);
  const handle = await open(path, "r");
  try {
    for await (const chunk of handle.createReadStream({ autoClose: false })) hash.update(chunk as Uint8Array);
  } finally {
    await handle.close();
  }
  return hash.digest("hex") === etag ? undefined : `its ${algorithm} is not the announced ${etag}.`;
}

/** The hub cannot be reached, or not now. */
class Unreachable extends UserError {}

/** One request. UserError for a refusal, saying what to do; `accepted` statuses come back instead. */
export async function request(
  settings: HubSettings,
  url: string,
  init: RequestInit,
  repo: Pick<HubRepo, "name" | "revision">,
  accepted: readonly number[] = [],
): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set("User-Agent", "lowrank");
  if (init.method !== "POST" && init.method !== "PUT") headers.set("Accept-Encoding", "identity");
  if (settings.token !== undefined && new URL(url).origin === new URL(settings.endpoint).origin)
    headers.set("Authorization", `Bearer ${settings.token}`);
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(new Error("no answer")), connectTimeoutMs);
  let response: Response;
  try {
    response = await fetch(url, { ...init, headers, signal: abort.signal });
  } catch (error) {
    const cause = (error as { cause?: { message?: string } }).cause?.message ?? (error as Error).message;
    throw new Unreachable(`${settings.endpoint} cannot be reached (${cause})`);
  } finally {
    clearTimeout(timer);
  }
  const { status } = response;
  if (status < 400 || accepted.includes(status)) return response;
  await response.body?.cancel();
  if (status === 401 || status === 403) {
    throw new UserError(
      `${repo.name}: access denied (${status}). ${settings.token === undefined ? "Set HF_TOKEN to a token that may read it" : "The token in use may not do this"}; gated models also want their terms accepted on ${settings.endpoint}/${repo.name}.`,
    );
  }
  if (status === 404)
    throw new UserError(`${repo.name}: the hub knows no such repository, revision or file (${url}).`);
  if (status === 429 || status >= 500) throw new Unreachable(`${url}: the hub answers ${status}`);
  throw new UserError(`${url}: the hub answers ${status}.`);
}

export async function readJson(response: Response, url: string): Promise<JsonObject> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > listingCapBytes) throw new UserError(`${url}: the answer is too long.`);
  }
  try {
    const json: unknown = JSON.parse(text);
    if (isJsonObject(json)) return json;
  } catch {
    // Told below: whatever it is, it is not the hub's JSON.
  }
  throw new UserError(`${url}: the answer is no JSON object; is HF_ENDPOINT a hub?`);
}
