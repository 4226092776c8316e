// Makes what an open file holds durable. Yarn's Plug'n'Play hands out files of its own making, whose sync() is not
// implemented; they have the system's number of the file all the same, and that can be synced.

import type { FileHandle } from "node:fs/promises";

export async function syncFile(file: FileHandle): Promise<void> {
  try {
    await file.sync();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== undefined) throw error; // the system's own word
    const { fsync } = process.getBuiltinModule("node:fs");
    await new Promise<void>((done, fail) => fsync(file.fd, (problem) => (problem ? fail(problem) : done())));
  }
}
