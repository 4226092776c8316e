// Writes files so that a reader, a crash or a full disk never meets half of one: temporary file in the same folder,
// write, fsync, rename over the old, fsync the folder. On any failure the temporary file goes and the old file stays.

import { randomBytes } from "node:crypto";
import { type FileHandle, open, readdir, rename, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { UserError } from "../util/errors.ts";
import { makeFolder } from "./make-folder.ts";
import { syncFile } from "./sync-file.ts";

/** One write call takes at most 2^31 - 1 bytes; longer ones loop in pieces of this size. */
const PIECE_BYTES = 1 << 28;

/** Appends bytes to the file being written. */
export type Append = (bytes: Uint8Array) => Promise<void>;

/** Replaces `path` by what `produce` appends. Missing parent folders are created. */
export async function writeAtomically(
  path: string,
  produce: (append: Append) => Promise<void>,
): Promise<void> {
  const folder = dirname(path);
  const temporary = join(folder, `.${basename(path)}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`);
  let file: FileHandle | undefined;
  let created = false;
  try {
    await makeFolder(folder);
    file = await open(temporary, "wx");
    created = true;
    const handle = file;
    await produce((bytes) => appendAll(handle, bytes));
    await syncFile(file);
    await file.close();
    file = undefined;
    await rename(temporary, path);
    created = false;
    await syncFolder(folder);
  } catch (error) {
    await file?.close().catch(() => {});
    if (created) await unlink(temporary).catch(() => {});
    throw writeProblem(error, path);
  }
}

/** Removes what killed processes left of writing `path`. Only for whoever holds the lock on it. */
export async function removeLeftovers(path: string): Promise<void> {
  const folder = dirname(path);
  const prefix = `.${basename(path)}.`;
  for (const name of await readdir(folder)) {
    if (name.startsWith(prefix) && /^\d+-[0-9a-f]{8}\.tmp$/.test(name.slice(prefix.length)))
      await unlink(join(folder, name)).catch(() => {});
  }
}

/** Replaces `path` by these bytes, or this text as UTF-8. */
export function writeFileAtomic(path: string, content: Uint8Array | string): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  return writeAtomically(path, (append) => append(bytes));
}

async function appendAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  let done = 0;
  while (done < bytes.byteLength) {
    const { bytesWritten } = await file.write(bytes, done, Math.min(PIECE_BYTES, bytes.byteLength - done));
    done += bytesWritten;
  }
}

/** Makes the rename itself durable. Some systems cannot sync a folder; the rename is then as durable as they make it. */
export async function syncFolder(folder: string): Promise<void> {
  try {
    const handle = await open(folder, "r");
    try {
      await syncFile(handle);
    } finally {
      await handle.close();
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (
      code !== "EISDIR" &&
      code !== "EPERM" &&
      code !== "EINVAL" &&
      code !== "EACCES" &&
      code !== "ENOTSUP"
    ) {
      throw error;
    }
  }
}

const problems: Record<string, string> = {
  ENOSPC:
    "the disk is full. Free some space or write elsewhere; the previous file, if there was one, is untouched.",
  EDQUOT: "the disk quota is used up. Free some space or write elsewhere; the previous file is untouched.",
  EFBIG: "the file is larger than this file system or the process's limit allows.",
  EACCES: "no permission to write here.",
  EPERM: "no permission to write here.",
  EROFS: "the file system is read-only.",
  ENOENT: "a folder on the way cannot be made, or was removed meanwhile.",
  ENOTDIR: "a part of this path is a file, not a folder.",
  EEXIST: "a part of this path is a file, not a folder.",
  EISDIR: "this is a folder; expected a file's name.",
  ENOTEMPTY: "this is a folder; expected a file's name.",
};

/** What a failed write means to the user, where it is the place's fault; otherwise the error itself. */
export function writeProblem(error: unknown, path: string): unknown {
  const problem = problems[(error as NodeJS.ErrnoException)?.code ?? ""];
  return problem ? new UserError(`${path}: cannot be written: ${problem}`, { cause: error }) : error;
}
