// A folder that appears whole or not at all: it is filled under a temporary name beside its place and renamed when it
// is good. Single files have atomic-file.ts.

import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../util/errors.ts";

export interface StagedFolder {
  /** Where to write meanwhile. */
  readonly path: string;
  /** Moves the folder to its place. */
  publish(): Promise<void>;
  /** Removes what was written. Does nothing after publish(). */
  discard(): Promise<void>;
}

/** UserError when something other than an empty folder stands at `place`, or nothing can be written there. */
export async function stageFolder(place: string): Promise<StagedFolder> {
  const target = resolve(place);
  const present = await readdir(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new UserError(
      `${place}: cannot be written: ${error.code === "ENOTDIR" ? "this is a file" : error.message}.`,
    );
  });
  if (present && present.length > 0) {
    throw new UserError(
      `${place}: this folder is not empty (${present.slice(0, 3).join(", ")}); give the name of a new one.`,
    );
  }
  const path = join(dirname(target), `.${basename(target)}.${process.pid}.partial`);
  try {
    await rm(path, { recursive: true, force: true });
    await mkdir(path, { recursive: true });
  } catch (error) {
    throw new UserError(`${place}: cannot be written: ${(error as Error).message}.`);
  }
  let done = false;
  return {
    path,
    async publish() {
      // An empty folder is replaced by the rename itself.
      await rename(path, target);
      done = true;
    },
    async discard() {
      if (!done) await rm(path, { recursive: true, force: true });
    },
  };
}
