// The policy for a run's output folder: a fresh run needs an empty or absent one, a resumed one must be the same run.

import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../util/errors.ts";
import { listCheckpoints, type RunState, readState } from "./checkpoint.ts";

export type RunIdentity = Readonly<Record<string, unknown>>;

/** What a killed run leaves of a file that was being replaced; see formats/atomic-file.ts. */
const leftoverNames = /^\..+\.\d+-[0-9a-f]{8}\.tmp$/;
/** What a run has written before its record. */
const earlyNames = /^(metrics\.jsonl|checkpoints|\..+\.tmp)$/;

/** Makes the folder, or refuses it. Returns the checkpoint to resume from when there is one. */
export async function prepareRunFolder(
  out: string,
  resume: boolean,
): Promise<{ folder: string; state: RunState } | undefined> {
  const names = await readdir(out).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new UserError(`--out ${out}: not a folder that can be read (${error.code}); give another`);
  });
  if (names === undefined || names.length === 0) {
    if (resume && names === undefined)
      throw new UserError(`--out ${out}: there is nothing to resume; start without --resume`);
    await mkdir(out, { recursive: true }).catch(async () => {
      // Making several folders at once hides the reason on some systems (EROFS comes back as ENOENT).
      const reason = await mkdir(out).catch((error: NodeJS.ErrnoException) => error.code);
      throw new UserError(
        `--out ${out}: the folder cannot be made (${reason}); give a place you may write to`,
      );
    });
    return undefined;
  }
  if (!resume) {
    throw new UserError(
      `--out ${out}: the folder is not empty; continue the run in it with --resume, or give another folder`,
    );
  }
  for (const name of names) if (leftoverNames.test(name)) await rm(join(out, name), { force: true });
  const newest = (await listCheckpoints(out)).at(-1);
  if (newest === undefined) {
    // A run that was killed before its first checkpoint, perhaps before its record, starts anew.
    if (!names.includes("run.json") && !names.every((name) => earlyNames.test(name))) {
      throw new UserError(
        `--out ${out}: the folder is not empty and holds no run of lowrank; give another folder`,
      );
    }
    return undefined;
  }
  const folder = join(out, "checkpoints", `step-${newest}`);
  return { folder, state: await readState(folder) };
}

/** Refuses to continue a run whose course was decided by other options or files. */
export function requireSameRun(state: RunState, identity: RunIdentity, folder: string): void {
  const differing = Object.keys({ ...state.identity, ...identity }).filter(
    (key) => JSON.stringify(state.identity[key]) !== JSON.stringify(identity[key]),
  );
  if (differing.length === 0) return;
  const told = differing
    .slice(0, 4)
    .map(
      (key) =>
        `${key} was ${JSON.stringify(state.identity[key])} and is now ${JSON.stringify(identity[key])}`,
    );
  throw new UserError(
    `${folder}: the checkpoint belongs to another run: ${told.join("; ")}. Resume with the same options and files, or start a new run in another --out`,
  );
}
