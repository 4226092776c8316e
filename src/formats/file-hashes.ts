// SHA-256 of files, a piece at a time. Those of large files that do not change (a base's weights) are remembered in
// lowrank's cache by path, size and times, so that a training or an export hashes a base once and not each time; what
// checks files never looks there. Not here: what the hashes are for (publish/chain.ts).

import { createHash } from "node:crypto";
import { open, readFile, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "./atomic-file.ts";
import { cacheFolder } from "./cache-folder.ts";
import { READ_WITHOUT_WAITING } from "./disk.ts";

export interface HashedFile {
  /** Relative to the folder that it is told of, with forward slashes. */
  readonly name: string;
  readonly bytes: number;
  /** 64 hexadecimal digits. */
  readonly sha256: string;
}

const pieceBytes = 4 * 2 ** 20;

/** Node's error where it cannot be read; EINVAL for what is no plain file. */
export async function hashFile(path: string): Promise<{ readonly bytes: number; readonly sha256: string }> {
  const file = await open(path, READ_WITHOUT_WAITING);
  try {
    if (!(await file.stat()).isFile())
      throw Object.assign(new Error(`${path} is no plain file`), { code: "EINVAL" });
    const hash = createHash("sha256");
    const piece = new Uint8Array(pieceBytes);
    for (let bytes = 0; ; ) {
      const { bytesRead } = await file.read(piece, 0, piece.length, bytes);
      if (bytesRead === 0) return { bytes, sha256: hash.digest("hex") };
      hash.update(piece.subarray(0, bytesRead));
      bytes += bytesRead;
    }
  } finally {
    await file.close();
  }
}

/** What tells that a file is still the one it was: its size, its times and its place on the disk. */
export async function stampOf(path: string): Promise<string> {
  const { size, mtimeNs, ctimeNs, ino, dev } = await stat(path, { bigint: true });
  return [size, mtimeNs, ctimeNs, ino, dev].join(":");
}

/** Smaller files are hashed sooner than they are looked up. */
const rememberedBytes = 4 * 2 ** 20;
const rememberedFiles = 1000;
const cacheCapBytes = 2 ** 20;

/** The same, from the cache where the file is as it was when it was hashed. */
export async function hashUnchangingFile(
  path: string,
): Promise<{ readonly bytes: number; readonly sha256: string }> {
  const folder = cacheFolder();
  const { size } = await stat(path);
  if (size < rememberedBytes || folder === undefined) return hashFile(path);
  const cache = join(folder, "hashes.json");
  const key = `${await realpath(path)}:${await stampOf(path)}`;
  const known = (await readCache(cache)).get(key);
  if (known !== undefined) return { bytes: size, sha256: known };
  const hashed = await hashFile(path);
  if (`${await realpath(path)}:${await stampOf(path)}` === key) {
    const kept = [...(await readCache(cache)), [key, hashed.sha256] as const].slice(-rememberedFiles);
    await writeFileAtomic(cache, JSON.stringify(kept)).catch(() => {});
  }
  return hashed;
}

async function readCache(path: string): Promise<Map<string, string>> {
  try {
    if ((await stat(path)).size > cacheCapBytes) return new Map();
    const entries = JSON.parse(await readFile(path, "utf8")) as [string, string][];
    return new Map(
      entries.filter(([key, sha]) => typeof key === "string" && /^[0-9a-f]{64}$/.test(String(sha))),
    );
  } catch {
    return new Map();
  }
}
