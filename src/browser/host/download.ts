// Fetches a model folder into storage: from a URL whose files lie beside each other, or a repository of the hub. A download
// that was cut, by the network or a closed tab, goes on where it ended; each file is held to the size and hash that are
// known of it: the hub's, or those of a file SHA256SUMS in the folder. The one file here that reaches a network.

import { UserError } from "../../util/errors.ts";
import { createHash } from "../platform/crypto.ts";
import { open } from "../platform/fs-promises.ts";
import type { ProgressEvent } from "../protocol.ts";
import { tree } from "../storage/tree.ts";
import { requireRoom } from "./mount.ts";

interface RemoteFile {
  readonly name: string;
  readonly url: string;
  readonly sizeBytes?: number;
  readonly sha256?: string;
  /** A folder may do without it. */
  readonly optional?: boolean;
}

/** What a stored folder came from, in its own file there; written once all files are whole. */
export interface StoredSource {
  readonly version: 1;
  readonly from: string;
  readonly files: readonly { readonly name: string; readonly sizeBytes: number; readonly sha256: string }[];
}

export const sourceFile = ".lowrank-source.json";

type Tell = (event: ProgressEvent) => void;

const textFiles = [
  ...["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"],
  ...["chat_template.jinja", "added_tokens.json"],
];
const fileName = /^[\w][\w.-]{0,200}$/;
const smallCapBytes = 256 * 2 ** 20;
const listedCapFiles = 10_000;
const attempts = 5;
const pauseMs = 500;

export type Place =
  | { readonly kind: "url"; readonly url: string }
  | { readonly kind: "hub"; readonly repo: string; readonly revision: string; readonly endpoint: string };

/** Makes the folder whole. Files that are there already with the right size are not fetched again. */
export async function downloadFolder(place: Place, folder: string, tell: Tell): Promise<void> {
  const files = place.kind === "hub" ? await hubFiles(place) : await folderFiles(place.url);
  const known = files.every((file) => file.sizeBytes !== undefined || file.optional);
  const totalBytes = known ? files.reduce((sum, file) => sum + (file.sizeBytes ?? 0), 0) : undefined;
  const had = files.reduce(
    (sum, { name }) => sum + sizeOf(`${folder}/${name}`) + sizeOf(part(folder, name)),
    0,
  );
  if (totalBytes !== undefined) await requireRoom(folder, Math.max(0, totalBytes - had));
  const done: StoredSource["files"][number][] = [];
  let doneBytes = 0;
  const queue = [...files];
  while (queue.length > 0) {
    const file = queue.shift()!;
    const before = doneBytes;
    const fetched = await fetchFile(file, folder, (bytes) =>
      tell({ type: "progress", file: file.name, doneBytes: before + bytes, totalBytes }),
    );
    if (!fetched) continue;
    done.push(fetched);
    doneBytes += fetched.sizeBytes;
    if (place.kind === "url" && file.name === indexFile)
      queue.push(...(await shards(place.url, folder, files)));
  }
  if (!done.some(({ name }) => name.endsWith(".safetensors")))
    throw new UserError(`${nameOf(place)}: neither ${indexFile} nor model.safetensors is there`);
  const record: StoredSource = { version: 1, from: nameOf(place), files: done };
  await tree.writeWhole(`${folder}/${sourceFile}`, new TextEncoder().encode(JSON.stringify(record)));
}

export function nameOf(place: Place): string {
  return place.kind === "url" ? place.url : `${place.endpoint}/${place.repo}@${place.revision}`;
}

const indexFile = "model.safetensors.index.json";

/** A folder that nobody lists: what a model has, with what its SHA256SUMS says of it. */
async function folderFiles(url: string): Promise<RemoteFile[]> {
  const sums = await readSums(url);
  const file = (name: string, optional: boolean): RemoteFile => {
    const sha256 = sums?.get(name);
    return { name, url: inFolder(url, name), sha256, optional };
  };
  const listed = (name: string) => sums === undefined || sums.has(name);
  const files = [file("config.json", false), file("tokenizer.json", false)];
  for (const name of textFiles) if (listed(name)) files.push(file(name, sums === undefined));
  if (sums) {
    for (const name of sums.keys()) if (name.endsWith(".safetensors")) files.push(file(name, false));
    if (sums.has(indexFile)) files.push(file(indexFile, false));
  } else files.push(file(indexFile, true), file("model.safetensors", true));
  return files;
}

async function readSums(url: string): Promise<Map<string, string> | undefined> {
  const response = await fetch(inFolder(url, "SHA256SUMS")).catch(() => undefined);
  if (!response?.ok) return undefined;
  const sums = new Map<string, string>();
  for (const line of (await capped(response, smallCapBytes)).trimEnd().split("\n")) {
    const [, sum, name] = /^([0-9a-f]{64}) [ *](.+)$/.exec(line) ?? [];
    // A server that answers every name with a page has no such file.
    if (sum === undefined || name === undefined || !fileName.test(name)) return undefined;
    if (sums.size >= listedCapFiles) throw new UserError(`${url}: SHA256SUMS names too many files`);
    sums.set(name, sum);
  }
  return sums;
}

/** The files that the index names and nobody has listed yet. */
async function shards(url: string, folder: string, listed: readonly RemoteFile[]): Promise<RemoteFile[]> {
  const file = await open(`${folder}/${indexFile}`);
  try {
    const { weight_map: map } = JSON.parse(new TextDecoder().decode(await file.readFile()));
    const names = [...new Set(Object.values(map as Record<string, unknown>))] as string[];
    if (names.length > listedCapFiles || !names.every((name) => fileName.test(name)))
      throw new Error("names");
    return names
      .filter((name) => !listed.some((each) => each.name === name))
      .map((name) => ({ name, url: inFolder(url, name) }));
  } catch {
    throw new UserError(`${url}: ${indexFile} does not name the model's files`);
  } finally {
    await file.close();
  }
}

interface Sibling {
  readonly rfilename?: unknown;
  readonly size?: unknown;
  readonly lfs?: { readonly sha256?: unknown };
}

async function hubFiles({ repo, revision, endpoint }: Place & { kind: "hub" }): Promise<RemoteFile[]> {
  const api = `${endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const response = await request(api);
  if (!response.ok) throw new UserError(`${repo}@${revision}: the hub answers ${response.status} (${api})`);
  const { sha, siblings } = JSON.parse(await capped(response, smallCapBytes)) as {
    sha?: unknown;
    siblings?: Sibling[];
  };
  // One commit for all files, whatever is pushed meanwhile.
  const commit = typeof sha === "string" && /^[0-9a-f]{40}$/.test(sha) ? sha : revision;
  const files: RemoteFile[] = [];
  for (const { rfilename, size, lfs } of (siblings ?? []).slice(0, listedCapFiles)) {
    const name = String(rfilename);
    const wanted = ["config.json", "tokenizer.json", indexFile, ...textFiles].includes(name);
    if (!fileName.test(name) || !(wanted || name.endsWith(".safetensors"))) continue;
    files.push({
      name,
      url: `${endpoint}/${repo}/resolve/${encodeURIComponent(commit)}/${name}`,
      sizeBytes: typeof size === "number" ? size : undefined,
      sha256: typeof lfs?.sha256 === "string" ? lfs.sha256 : undefined,
    });
  }
  if (!files.some(({ name }) => name === "config.json"))
    throw new UserError(`${repo}@${revision}: this repository has no config.json, so it holds no model`);
  return files;
}

const part = (folder: string, name: string) => `${folder}/.${name}.part`;

/** Undefined where an optional file is not there. */
async function fetchFile(
  file: RemoteFile,
  folder: string,
  tell: (bytes: number) => void,
): Promise<StoredSource["files"][number] | undefined> {
  const path = `${folder}/${file.name}`;
  const present = sizeOf(path);
  if (present > 0 && (file.sizeBytes ?? present) === present) {
    const sha256 = await hashOf(path);
    if ((file.sha256 ?? sha256) === sha256) return { name: file.name, sizeBytes: present, sha256 };
  }
  const partial = part(folder, file.name);
  for (let attempt = 1; ; attempt++) {
    try {
      const total = await fetchRest(file, partial, tell);
      if (total === undefined) return undefined;
      const sizeBytes = sizeOf(partial);
      if (sizeBytes !== (file.sizeBytes ?? total)) throw new CutDownload();
      const sha256 = await hashOf(partial);
      if (file.sha256 !== undefined && sha256 !== file.sha256) {
        await tree.remove(partial);
        throw new UserError(
          `${file.url}: its SHA-256 is ${sha256}, and ${file.sha256} was expected; the file was changed on the way or is another. Fetch it again`,
        );
      }
      await tree.rename(partial, path);
      return { name: file.name, sizeBytes, sha256 };
    } catch (error) {
      if (!(error instanceof CutDownload)) throw error;
      if (attempt >= attempts)
        throw new UserError(
          `${file.url}: the download was cut ${attempts} times, at byte ${sizeOf(partial)} at last; what came is kept, and opening the model again goes on from there`,
        );
      await new Promise((resolve) => setTimeout(resolve, pauseMs * attempt));
    }
  }
}

class CutDownload extends Error {}

/** Appends what is missing of the file; returns its whole size, or undefined where it is optional and not there. */
async function fetchRest(
  file: RemoteFile,
  partial: string,
  tell: (bytes: number) => void,
): Promise<number | undefined> {
  const have = sizeOf(partial);
  const response = await request(file.url, have > 0 ? { Range: `bytes=${have}-` } : {});
  if (response.status === 404 && file.optional) return undefined;
  const ofRange = /^bytes (\d+)-\d+\/(\d+)$/.exec(response.headers.get("content-range") ?? "");
  if (response.status === 416) {
    const whole = /^bytes \*\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1];
    if (Number(whole ?? file.sizeBytes) === have) return have;
    await tree.remove(partial);
    throw new CutDownload();
  }
  if (response.status >= 500) throw new CutDownload();
  if (!response.ok || !response.body)
    throw new UserError(`${file.url}: the server answers ${response.status}; expected the file`);
  const goesOn = response.status === 206 && have > 0 && Number(ofRange?.[1] ?? have) === have;
  const start = goesOn ? have : 0;
  const length = Number(response.headers.get("content-length") ?? Number.NaN);
  // What travels compressed has another length.
  const plain = response.headers.get("content-encoding") === null && Number.isSafeInteger(length);
  const total = ofRange?.[2] !== undefined ? Number(ofRange[2]) : plain ? start + length : undefined;
  if (total !== undefined) await requireRoom(file.url, total - have);
  const handle = await open(partial, sizeOf(partial) >= 0 && tree.find(partial) ? "r+" : "w");
  let at = start;
  try {
    if (start === 0) await handle.truncate(0);
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw new CutDownload();
      });
      if (done) break;
      if (file.sizeBytes !== undefined && at + value.byteLength > file.sizeBytes)
        throw new UserError(`${file.url}: more than the ${file.sizeBytes} bytes came that it should have`);
      for (let from = 0; from < value.byteLength; )
        from += (await handle.write(value, from, value.byteLength - from, at + from)).bytesWritten;
      at += value.byteLength;
      tell(at);
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  return total ?? at;
}

async function request(url: string, headers: Record<string, string> = {}): Promise<Response> {
  try {
    return await fetch(url, { headers });
  } catch (error) {
    throw new UserError(
      `${url}: cannot be fetched (${(error as Error).message}): no connection, or the server does not allow other pages to read it (CORS)`,
    );
  }
}

async function capped(response: Response, capBytes: number): Promise<string> {
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  const reader = response.body!.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return new TextDecoder().decode(await new Blob(pieces).arrayBuffer());
    size += value.byteLength;
    if (size > capBytes) throw new UserError(`${response.url}: more than ${capBytes} bytes`);
    pieces.push(value);
  }
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  const handle = await open(path);
  try {
    const piece = new Uint8Array(4 * 2 ** 20);
    for (;;) {
      const { bytesRead } = await handle.read(piece);
      if (bytesRead === 0) return hash.digest("hex");
      hash.update(piece.subarray(0, bytesRead));
    }
  } finally {
    await handle.close();
  }
}

function sizeOf(path: string): number {
  const node = tree.find(path);
  return node?.kind === "file" ? node.body.sizeBytes : 0;
}

function inFolder(url: string, name: string): string {
  return new URL(name, url.endsWith("/") ? url : `${url}/`).href;
}
