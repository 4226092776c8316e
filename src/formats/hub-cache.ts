// The cache of hub downloads that Python's huggingface_hub keeps too, so that what one fetched the other finds:
//
//   models--owner--name/  refs/main                 the commit a name stands for
//                         blobs/<etag>              a file's bytes, under its hash
//                         snapshots/<commit>/path   a link to the blob
//   .locks/models--owner--name/<etag>.lowrank.lock  held while a blob is fetched
//
// Places and names only; what is fetched, and how, is hub.ts's affair.
// Layout: huggingface_hub, file_download.py and constants.py.

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { copyFile, lstat, open, rename, rm, stat, symlink, utimes } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { UserError } from "../util/errors.ts";
import { writeFileAtomic } from "./atomic-file.ts";
import { makeFolder } from "./make-folder.ts";

export interface HubSettings {
  /** Without a slash at the end. */
  readonly endpoint: string;
  readonly token?: string;
  readonly cacheFolder: string;
  readonly offline: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Settings as huggingface_hub reads them from the environment. */
export function hubSettings(env: Environment = process.env): HubSettings {
  const home = env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface");
  const tokenFile = env.HF_TOKEN_PATH || join(home, "token");
  const token = env.HF_TOKEN || readText(tokenFile) || "";
  return {
    endpoint: (env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, ""),
    token: token.trim() || undefined,
    cacheFolder: env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(home, "hub"),
    offline: /^(1|on|yes|true)$/i.test(env.HF_HUB_OFFLINE ?? ""),
  };
}

export interface HubRepo {
  readonly type: "model" | "dataset";
  /** owner/name */
  readonly name: string;
  readonly revision: string;
}

/** owner/name with or without @revision, the main branch by default; undefined where a name is none. */
export function parseHubName(text: string, type: HubRepo["type"]): HubRepo | undefined {
  const match = /^([A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9_][\w.-]{0,95})(?:@([\w][\w./-]{0,199}))?$/.exec(text);
  if (!match || text.includes("..")) return undefined;
  return { type, name: match[1]!, revision: match[2] ?? "main" };
}

/** owner/name[@revision]/FILE.gguf: one file of a repository; undefined where a name is none. */
export function parseHubFile(text: string): { readonly repo: HubRepo; readonly path: string } | undefined {
  const match = /^([^/]+\/[^/]+)\/((?:[\w.-]+\/)*[\w.-]+\.gguf)$/i.exec(text);
  const repo = match ? parseHubName(match[1]!, "model") : undefined;
  return repo && { repo, path: match![2]! };
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

const commitPattern = /^[0-9a-f]{40}$/;

/** A repository's part of the cache. */
export class RepoCache {
  readonly folder: string;
  private readonly locks: string;

  constructor(
    private readonly settings: HubSettings,
    private readonly repo: HubRepo,
  ) {
    const name = `${repo.type}s--${repo.name.replaceAll("/", "--")}`;
    this.folder = join(settings.cacheFolder, name);
    this.locks = join(settings.cacheFolder, ".locks", name);
  }

  /** The commit that the revision stood for when it was last fetched. */
  knownCommit(): string | undefined {
    const { revision } = this.repo;
    if (commitPattern.test(revision)) return revision;
    const commit = readText(join(this.folder, "refs", revision))?.trim();
    return commit !== undefined && commitPattern.test(commit) ? commit : undefined;
  }

  async rememberCommit(commit: string): Promise<void> {
    if (this.repo.revision === commit || this.knownCommit() === commit) return;
    await this.writing(() => writeFileAtomic(join(this.folder, "refs", this.repo.revision), commit));
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  blob(etag: string): string {
    return join(this.folder, "blobs", etag);
  }

  /** Whether the snapshot has the file, its bytes included. */
  async has(commit: string, path: string): Promise<boolean> {
    return (await stat(join(this.snapshot(commit), path)).catch(() => undefined))?.isFile() ?? false;
  }

  /** Links a blob into the snapshot; copies it where the file system has no links. */
  async link(commit: string, path: string, etag: string): Promise<void> {
    const place = join(this.snapshot(commit), path);
    const target = this.blob(etag);
    await this.writing(async () => {
      await makeFolder(dirname(place));
      const present = await lstat(place).catch(() => undefined);
      if (present && (await this.has(commit, path))) return;
      // Made aside and renamed, so that two processes never see each other's half.
      const aside = `${place}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`;
      try {
        await symlink(relative(dirname(place), target), aside);
      } catch (error) {
        const code = (error as NodeJS.ErrnoException).code;
        if (code !== "EPERM" && code !== "ENOSYS" && code !== "ENOTSUP") throw error;
        await copyFile(target, aside);
      }
      await rename(aside, place);
    });
  }

  /** Runs `work` while no other process of ours works on the same blob. */
  async locked<T>(etag: string, work: () => Promise<T>, onWait?: () => void): Promise<T> {
    const path = join(this.locks, `${etag}.lowrank.lock`);
    await this.writing(() => makeFolder(this.locks));
    await acquire(path, (code) => this.refusal(code), onWait);
    const beat = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => {}), heartbeatMs);
    beat.unref();
    try {
      return await work();
    } finally {
      clearInterval(beat);
      await rm(path, { force: true });
    }
  }

  /** Runs what writes into the cache; UserError where that is not allowed. */
  async writing<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.refusal((error as NodeJS.ErrnoException).code) ?? error;
    }
  }

  private refusal(code: string | undefined): UserError | undefined {
    const { cacheFolder } = this.settings;
    if (
      code === "EACCES" ||
      code === "EPERM" ||
      code === "EROFS" ||
      code === "ENOTDIR" ||
      code === "ENOENT"
    ) {
      return new UserError(
        `${this.repo.name} is not (wholly) in the cache ${cacheFolder}, and nothing can be written there; set HF_HOME to a folder of your own`,
      );
    }
    if (code === "ENOSPC" || code === "EDQUOT")
      return new UserError(
        `${this.repo.name}: the disk of the cache ${cacheFolder} is full; free some space`,
      );
    return undefined;
  }
}

const heartbeatMs = 5_000;
/** A lock this long without a heartbeat was left behind by a process that is gone. */
const staleMs = 30_000;

/** Makes the lock file, waiting for whoever holds it. */
async function acquire(
  path: string,
  refusal: (code: string | undefined) => UserError | undefined,
  onWait?: () => void,
): Promise<void> {
  let told = false;
  while (true) {
    try {
      const file = await open(path, "wx");
      await file.writeFile(String(process.pid));
      await file.close();
      return;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "EEXIST") throw refusal(code) ?? error;
    }
    const held = await stat(path).catch(() => undefined);
    if (held && Date.now() - held.mtimeMs > staleMs) {
      // Renamed first: of two that find it stale, one takes it away and neither removes the other's new lock.
      const aside = `${path}.${process.pid}-${randomBytes(4).toString("hex")}`;
      await rename(path, aside)
        .then(() => rm(aside, { force: true }))
        .catch(() => {});
      continue;
    }
    if (!told) onWait?.();
    told = true;
    await sleep(100);
  }
}
