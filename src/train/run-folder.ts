// The policy for a run's output folder: one run at a time works in it; a fresh run needs an empty or absent one, a
// resumed one must be the same run, and goes on from the newest checkpoint that is as it was saved.

import { existsSync } from "node:fs";
import { readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { makeFolder } from "../formats/make-folder.ts";
import {
  FOLDER_LOCK,
  isLockName,
  lockPlace,
  type PlaceLock,
  removeLockLeftovers,
} from "../formats/place-lock.ts";
import { UserError } from "../util/errors.ts";
import {
  damageOf,
  listCheckpoints,
  type RunState,
  readState,
  removeCheckpointLeftovers,
} from "./checkpoint.ts";
import { forgetRequests } from "./run-requests.ts";

/** What a killed run leaves of a file that was being replaced; see formats/atomic-file.ts. */
const leftoverNames = /^\..+\.\d+-[0-9a-f]{8}\.tmp$/;
/** What a run has written before its record. */
const earlyNames = /^(metrics\.jsonl|checkpoints|\..+\.tmp)$/;

export interface ClaimHooks {
  readonly onLost?: (error: UserError) => void;
  readonly onWait?: (message: string) => void;
  /** Whether the run hears what is asked of it (run-requests.ts). */
  readonly takesRequests?: boolean;
}

/**
 * Makes the folder and takes its lock, before anything in it is read or written. UserError when there is nothing to
 * resume, no folder can be made, or another run works in it.
 */
export async function claimRunFolder(
  out: string,
  resume: boolean,
  hooks: ClaimHooks = {},
): Promise<PlaceLock> {
  const names = await namesIn(out);
  if (names === undefined) {
    if (resume) throw new UserError(`--out ${out}: there is nothing to resume; start without --resume`);
    await makeRunFolder(out);
  }
  const lock = await lockPlace(join(out, FOLDER_LOCK), {
    place: `--out ${out}`,
    instead: "give another folder",
    ...hooks,
  });
  await removeLockLeftovers(out).catch(() => {});
  await forgetRequests(out);
  return lock;
}

/** Looks through the folder, or refuses it. Returns the checkpoint to resume from when there is one. */
export async function prepareRunFolder(
  out: string,
  resume: boolean,
  warn: (message: string) => void = () => {},
): Promise<{ folder: string; state: RunState } | undefined> {
  const names = (await namesIn(out))?.filter((name) => !isLockName(name));
  if (names === undefined || names.length === 0) {
    if (names === undefined) await makeRunFolder(out);
    return undefined;
  }
  if (!resume) {
    throw new UserError(
      `--out ${out}: the folder is not empty; continue the run in it with --resume, or give another folder`,
    );
  }
  const steps = await listCheckpoints(out);
  if (steps.length === 0 && !names.includes("run.json") && !names.every((name) => earlyNames.test(name))) {
    throw new UserError(
      `--out ${out}: the folder is not empty and holds no run of lowrank; give another folder`,
    );
  }
  for (const name of names) if (leftoverNames.test(name)) await rm(join(out, name), { force: true });
  await removeCheckpointLeftovers(out);
  if (steps.length > 0) return newestSound(out, steps, warn);
  // A run that was killed before its first checkpoint, perhaps before its record, starts anew.
  if (names.includes("run.json"))
    warn(`--out ${out}: there is no checkpoint to go on from; the run starts again from its first step`);
  return undefined;
}

/**
 * The newest checkpoint that is as it was saved. A damaged one is set aside under another name, so that it neither
 * counts among those to keep nor is met again; training from an earlier one comes to the same result.
 */
async function newestSound(
  out: string,
  steps: readonly number[],
  warn: (message: string) => void,
): Promise<{ folder: string; state: RunState }> {
  const damages: { step: number; damage: string }[] = [];
  for (const step of steps.toReversed()) {
    const folder = join(out, "checkpoints", `step-${step}`);
    let damage = await damageOf(folder, step);
    if (damage === undefined) {
      const state = await readState(folder);
      damage = await withoutBest(out, step, state, steps);
      if (damage === undefined) {
        for (const one of damages) await setAside(out, one, step, warn);
        return { folder, state };
      }
    }
    damages.push({ step, damage });
  }
  const told = damages.map(({ damage }) => damage).join("; ");
  throw new UserError(
    `--out ${out}: no checkpoint is as it was saved: ${told}. Put one back from a copy, or start a new run in another --out`,
  );
}

/** A run that keeps its best step needs that step's checkpoint too: without it, it goes on from before that step. */
async function withoutBest(
  out: string,
  step: number,
  { watched }: RunState,
  steps: readonly number[],
): Promise<string | undefined> {
  const best = watched?.best?.step;
  if (best === undefined || best >= step) return undefined;
  const folder = join(out, "checkpoints", `step-${best}`);
  const damage = steps.includes(best) ? await damageOf(folder, best) : `${folder} is missing`;
  return damage && `step ${step} has step ${best} for its best one, and ${damage}`;
}

async function setAside(
  out: string,
  { step, damage }: { step: number; damage: string },
  good: number,
  warn: (message: string) => void,
): Promise<void> {
  const root = join(out, "checkpoints");
  let aside = `damaged-step-${step}`;
  for (let i = 2; existsSync(join(root, aside)); i++) aside = `damaged-step-${step}-${i}`;
  await rename(join(root, `step-${step}`), join(root, aside)).catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`${damage}; it cannot be set aside (${error.code}): remove it and resume again`);
  });
  warn(
    `${damage}. It is set aside as ${join(root, aside)}; the run goes on from step ${good}, which comes to the same result`,
  );
}

async function namesIn(out: string): Promise<string[] | undefined> {
  return readdir(out).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new UserError(`--out ${out}: not a folder that can be read (${error.code}); give another`);
  });
}

async function makeRunFolder(out: string): Promise<void> {
  await makeFolder(out).catch((error: NodeJS.ErrnoException) => {
    throw new UserError(
      `--out ${out}: the folder cannot be made (${error.code}); give a place you may write to`,
    );
  });
}
