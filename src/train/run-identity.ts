// What makes a run the run it is: every option and file that decides its course. Equal identities give equal results, and
// a checkpoint goes on only under its own. Of the options of a run, those about when to save, evaluate, print, and how to
// save memory are not in it. Where checkpoints lie: run-folder.ts.

import { createHash } from "node:crypto";
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { rewardSpecs } from "../config/rollout-fields.ts";
import { recipeOfRun, type TrainOptions } from "../config/train-options.ts";
import { UserError } from "../util/errors.ts";
import type { RunState } from "./checkpoint.ts";
import type { TrainableModel } from "./setup.ts";
import type { TrainingData } from "./training-data.ts";

export type RunIdentity = Readonly<Record<string, unknown>>;

/** Everything that decides a run's course: its recipe, with files by what they hold, and the hashes of its inputs. */
export async function identityOf(
  options: TrainOptions,
  trainable: TrainableModel,
  data: TrainingData,
  totalSteps: number,
): Promise<RunIdentity> {
  const recipe = Object.entries(recipeOfRun(options)).map(async ([key, value]) => [
    key,
    typeof value === "string" ? await heldBy(value) : value,
  ]);
  return {
    ...Object.fromEntries(await Promise.all(recipe)),
    ...(options.reward && {
      maxNewTokens: options.maxNewTokens,
      reward: await Promise.all(
        rewardSpecs(options.reward).map(async ({ path, weight }) => [await heldBy(path), weight]),
      ),
    }),
    // As it was before there were others.
    ...(options.objective === "sft" && { objective: undefined }),
    // Which tokens are added is in the tokenizer's hash, however their list is written.
    ...(options.addTokens !== undefined && { addTokens: true }),
    ...resultTiming(options),
    totalSteps,
    modelHash: trainable.modelHash,
    tokenizerHash: trainable.model.text.hash,
    dataHash: data.report.dataHash,
    evalDataHash: data.evalReport?.dataHash,
  };
}

/** When a run evaluates or saves decides its result only where that is chosen, or made, among what was evaluated or saved. */
function resultTiming(options: TrainOptions): Readonly<Record<string, unknown>> {
  const { evalEvery, saveEvery, maxNewTokens } = options;
  return {
    ...(options.keepBest !== undefined && { evalEvery, maxNewTokens }),
    ...(options.averageCheckpoints !== undefined && { saveEvery }),
  };
}

/** A file or an adapter's folder by its content, so that it may move and may not change; other texts as they are. */
async function heldBy(value: string): Promise<string> {
  const status = await stat(value).catch(() => undefined);
  if (status === undefined) return value;
  const names = status.isDirectory()
    ? (await readdir(value)).filter((name) => adapterFiles.test(name))
    : [""];
  const hash = createHash("sha256");
  for (const name of names.sort()) hash.update(name).update(await readFile(join(value, name)));
  return `sha256:${hash.digest("hex")}`;
}

/** Of a folder that a recipe names, an adapter's: what decides it, not what was written beside it. */
const adapterFiles = /^(adapter_.*|tokenizer.*\.json|chat_template\.jinja)$/;

/**
 * Refuses to continue a run whose course was decided by other options or files. Only the number of steps may grow;
 * returns what it was when it did.
 */
export function requireSameRun(state: RunState, identity: RunIdentity, folder: string): number | undefined {
  const before = state.identity.totalSteps as number;
  const now = identity.totalSteps as number;
  const differing = Object.keys({ ...state.identity, ...identity }).filter(
    (key) => JSON.stringify(state.identity[key]) !== JSON.stringify(identity[key]),
  );
  const grows = Number.isSafeInteger(before) && now > before;
  const fatal = differing.filter((key) => !(key === "totalSteps" && grows));
  if (fatal.length === 0) return grows ? before : undefined;
  const told = fatal
    .slice(0, 4)
    .map(
      (key) =>
        `${key} was ${JSON.stringify(state.identity[key])} and is now ${JSON.stringify(identity[key])}`,
    );
  throw new UserError(
    `${folder}: the checkpoint belongs to another run: ${told.join("; ")}. Resume with the same options and files (--max-steps and --epochs may grow), or start a new run in another --out`,
  );
}
