// Disk files and folders as byte sources: the one place in formats/ that reads through node:fs.
// Writing is in atomic-file.ts.

import { constants } from "node:fs";
import { type FileHandle, open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../util/errors.ts";
import { type ByteSource, checkRange, type Folder } from "./byte-source.ts";

/** One read call returns at most 2^31 - 1 bytes; longer reads loop in pieces of this size. */
const PIECE_BYTES = 1 << 30;

/** Opening a named pipe otherwise waits for whoever writes it, without end. (Windows has neither.) */
export const READ_WITHOUT_WAITING = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);

/** Opens a file for positional reads. UserError when it is missing, unreadable or not a plain file. */
export async function openFile(path: string): Promise<ByteSource> {
  let handle: FileHandle;
  try {
    handle = await open(path, READ_WITHOUT_WAITING);
  } catch (error) {
    throw new UserError(`${path}: ${readProblem(error)}`);
  }
  const info = await handle.stat();
  if (!info.isFile()) {
    await handle.close();
    throw new UserError(
      `${path}: expected a file, found ${info.isDirectory() ? "a folder" : "something else"}.`,
    );
  }
  const source: ByteSource = {
    name: path,
    size: info.size,
    async read(offset, length) {
      checkRange(source, offset, length);
      const bytes = new Uint8Array(length);
      await fill(handle, path, offset, bytes);
      return bytes;
    },
    async readInto(offset, into) {
      checkRange(source, offset, into.byteLength);
      await fill(handle, path, offset, into);
    },
    async close() {
      await handle.close();
    },
  };
  return source;
}

async function fill(handle: FileHandle, path: string, offset: number, into: Uint8Array): Promise<void> {
  let done = 0;
  while (done < into.byteLength) {
    const length = Math.min(PIECE_BYTES, into.byteLength - done);
    const { bytesRead } = await handle.read(into, done, length, offset + done);
    if (bytesRead === 0) {
      throw new UserError(`${path}: the file became shorter while it was read, at byte ${offset + done}.`);
    }
    done += bytesRead;
  }
}

/** A folder on disk. UserError when it is missing or is a file. */
export async function openFolder(path: string): Promise<Folder> {
  let isFolder: boolean;
  try {
    isFolder = (await stat(path)).isDirectory();
  } catch (error) {
    throw new UserError(`${path}: ${readProblem(error, "folder")}`);
  }
  if (!isFolder) throw new UserError(`${path}: expected a folder, found a file.`);
  return {
    path,
    async list() {
      const entries = await readdir(path, { withFileTypes: true });
      return entries.filter((entry) => !entry.isDirectory()).map((entry) => entry.name);
    },
    open(name) {
      return openFile(join(path, name));
    },
  };
}

function readProblem(error: unknown, kind: "file" | "folder" = "file"): string {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === "ENOENT" || code === "ENOTDIR") return `there is no such ${kind}.`;
  if (code === "EACCES" || code === "EPERM") return `no permission to read this ${kind}.`;
  return `cannot be read: ${(error as Error).message}`;
}
