// A folder that appears whole or not at all: it is filled under a temporary name beside its place and renamed when it
// is good. One process at a time works for a place; what killed ones left beside it goes. Single files have
// atomic-file.ts.

import { rmSync } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../util/errors.ts";
import { makeFolder } from "./make-folder.ts";
import { lockBeside, lockPlace } from "./place-lock.ts";

export interface StagedFolder {
  /** Where to write meanwhile. */
  readonly path: string;
  /** Moves the folder to its place. */
  publish(): Promise<void>;
  /** Removes what was written, and lets others work here. Does not touch what was published. */
  discard(): Promise<void>;
}

/** UserError when something other than an empty folder stands at `place`, another process works for it, or nothing can be written there. */
export async function stageFolder(place: string): Promise<StagedFolder> {
  const target = resolve(place);
  await refuseFilled(target, place);
  const parent = dirname(target);
  await makeFolder(parent).catch((error: Error) => {
    throw cannotWrite(place, error);
  });
  const lock = await lockPlace(lockBeside(target), { place, instead: "give the name of a new folder" });
  const prefix = `.${basename(target)}.`;
  const path = join(parent, `${prefix}${process.pid}.partial`);
  const removeNow = () => rmSync(path, { recursive: true, force: true });
  let published = false;
  try {
    // Whoever had the place before may have just filled it.
    await refuseFilled(target, place);
    for (const name of await readdir(parent)) {
      if (name.startsWith(prefix) && /^\d+\.partial$/.test(name.slice(prefix.length)))
        await rm(join(parent, name), { recursive: true, force: true });
    }
    await mkdir(path);
  } catch (error) {
    lock.release();
    throw error instanceof UserError ? error : cannotWrite(place, error as Error);
  }
  process.once("exit", removeNow);
  return {
    path,
    async publish() {
      // An empty folder is replaced by the rename itself.
      await rename(path, target).catch((error: Error) => {
        throw cannotWrite(place, error);
      });
      published = true;
    },
    async discard() {
      process.off("exit", removeNow);
      if (!published) await rm(path, { recursive: true, force: true });
      lock.release();
    },
  };
}

async function refuseFilled(target: string, place: string): Promise<void> {
  const present = await readdir(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw new UserError(
      `${place}: cannot be written: ${error.code === "ENOTDIR" ? "this is a file" : error.message}.`,
    );
  });
  if (present.length > 0) {
    throw new UserError(
      `${place}: this folder is not empty (${present.slice(0, 3).join(", ")}); give the name of a new one.`,
    );
  }
}

function cannotWrite(place: string, error: Error): UserError {
  return new UserError(`${place}: cannot be written: ${error.message}.`);
}
