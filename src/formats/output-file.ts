// A large file that a command writes as its result: one process at a time works for it, and what killed ones left of
// it goes. The writing itself is atomic-file.ts.

import { dirname } from "node:path";
import { removeLeftovers, writeProblem } from "./atomic-file.ts";
import { makeFolder } from "./make-folder.ts";
import { lockBeside, lockPlace, type PlaceLock } from "./place-lock.ts";

/** Takes the lock on a file to be written, making its folder. UserError when another process has it. */
export async function claimOutputFile(path: string): Promise<PlaceLock> {
  await makeFolder(dirname(path)).catch((error: unknown) => {
    throw writeProblem(error, path);
  });
  const lock = await lockPlace(lockBeside(path), { place: path, instead: "give another file" });
  await removeLeftovers(path).catch(() => {});
  return lock;
}
