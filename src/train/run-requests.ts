// What others may ask of a run that is going on, wherever it was started: to save and stop, or to make a result of what
// it has. A request is a small file beside the run's lock that names the lock it is meant for, so that it outlives whoever
// asked, needs no signal (Windows has none) and is never taken for one to a later run. The run's own thread does not
// look for it: the one that holds the lock does (worker.ts). Who asks: ui/.

import { readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import { FOLDER_LOCK, holderAt } from "../formats/place-lock.ts";
import { UserError } from "../util/errors.ts";

/** pause: finish the step, save, stop. end: finish the step, evaluate, and write the result as if it were the last. */
export type RunRequest = "pause" | "end";

const requests: readonly RunRequest[] = ["pause", "end"];
/** Counts as a lock's, so that a folder that holds nothing else is empty (formats/place-lock.ts). */
const requestName = `${FOLDER_LOCK}.ask`;
const capBytes = 1024;
const lookEveryMs = 250;

/** Asks the run at work in a folder. UserError where there is none, or one that does not listen. */
export async function askRun(folder: string, request: RunRequest): Promise<void> {
  const holder = await holderAt(join(folder, FOLDER_LOCK));
  if (!holder) throw new UserError(`${folder}: no run is at work here`);
  if (!holder.takesRequests)
    throw new UserError(`${folder}: the run at work here is part of another program, which does not listen`);
  await writeFileAtomic(join(folder, requestName), `${JSON.stringify({ request, of: holder.nonce })}\n`);
}

/** Removes what was asked of an earlier run. */
export async function forgetRequests(folder: string): Promise<void> {
  await rm(join(folder, requestName), { force: true }).catch(() => {});
}

/** Calls `hear` with each request to the holder of the lock `nonce`, until the returned function is called. */
export function hearRequests(
  folder: string,
  nonce: string,
  hear: (request: RunRequest) => void,
  everyMs = lookEveryMs,
): () => void {
  const path = join(folder, requestName);
  let looking = false;
  const look = async () => {
    if (looking) return;
    looking = true;
    const found = await take(path, nonce).finally(() => {
      looking = false;
    });
    if (found) hear(found);
  };
  const timer = setInterval(() => void look(), everyMs);
  timer.unref();
  return () => clearInterval(timer);
}

/** The request that lies there, which then no longer does; what cannot be read as one is none. */
async function take(path: string, nonce: string): Promise<RunRequest | undefined> {
  try {
    const info = await stat(path);
    const text = info.isFile() && info.size <= capBytes ? await readFile(path, "utf8") : "";
    await rm(path, { force: true });
    const { request, of } = JSON.parse(text) as { request?: unknown; of?: unknown };
    return of === nonce ? requests.find((known) => known === request) : undefined;
  } catch {
    return undefined;
  }
}
