// What --objective grpo takes beside what other objectives have: rewards, and how completions are written and learnt from.
// Constants of the loss are the objective's own (objectives/grpo.ts), with TRL's defaults.

import type { DataChoice } from "../data/data-source.ts";
import { rewardScales } from "../objectives/advantages.ts";
import { ratioLevels } from "../objectives/grpo.ts";
import { objectives } from "../objectives/index.ts";
import { UsageError } from "../util/errors.ts";
import { choice, list, real, whole } from "./define.ts";
import { flagName } from "./resolve.ts";

const { clipEpsilon } = objectives.grpo.defaults;
const rolloutDefaults = { groupSize: 8, iterations: 1, scaleRewards: "group", rewardTimeout: 60 } as const;

export const rolloutFields = {
  reward: list(
    "a module that judges what the model wrote (grpo): its default export is (prompt, completion, row) => number; =WEIGHT behind it counts it otherwise; may be repeated",
    { placeholder: "F.js[=WEIGHT]" },
  ),
  groupSize: whole("completions written for each prompt (grpo)", {
    min: 2,
    max: 4096,
    defaultText: String(rolloutDefaults.groupSize),
  }),
  iterations: whole("optimizer steps on the same completions (grpo)", {
    min: 1,
    max: 1000,
    defaultText: String(rolloutDefaults.iterations),
  }),
  scaleRewards: choice(rewardScales, "what a reward's distance from its group's mean is divided by (grpo)", {
    defaultText: rolloutDefaults.scaleRewards,
  }),
  clipEpsilon: real("how far below 1 a ratio of probabilities still counts (grpo)", {
    min: 0,
    open: true,
    max: 0.999,
    defaultText: String(clipEpsilon),
  }),
  clipEpsilonHigh: real("how far above 1 a ratio of probabilities still counts (grpo)", {
    min: 0,
    open: true,
    max: 1000,
    defaultText: "--clip-epsilon",
  }),
  ratios: choice(ratioLevels, "what has a ratio of probabilities: each token, or each completion (grpo)", {
    defaultText: "token",
  }),
  rewardTimeout: whole("seconds that a reward may take (grpo)", {
    min: 1,
    max: 86_400,
    defaultText: String(rolloutDefaults.rewardTimeout),
  }),
};

export interface RolloutValues {
  readonly reward?: readonly string[] | undefined;
  readonly groupSize?: number | undefined;
  readonly iterations?: number | undefined;
  readonly scaleRewards?: (typeof rewardScales)[number] | undefined;
  readonly rewardTimeout?: number | undefined;
}

interface RunValues extends RolloutValues {
  readonly objective: string;
  readonly method: string;
  readonly beta?: number | undefined;
  readonly reference?: string | undefined;
  readonly packing: boolean;
  readonly evalData?: DataChoice | undefined;
  readonly evalFraction?: number | undefined;
  readonly batchTokens?: number | undefined;
}

/** The options with their defaults; nothing for other objectives, whose UsageError it is to have one. */
export function finishRollouts(values: RunValues): RolloutValues {
  if (values.objective !== "grpo") {
    const given = Object.keys(rolloutFields).find((key) => values[key as keyof RunValues] !== undefined);
    if (given !== undefined) throw new UsageError(`${flagName(given)} goes with --objective grpo.`);
    return {};
  }
  if (values.reward === undefined || values.reward.length === 0) {
    throw new UsageError(
      "--objective grpo needs --reward F.js: a module whose default export is (prompt, completion, row) => number.",
    );
  }
  rewardSpecs(values.reward);
  const refuse = (when: boolean, why: string) => {
    if (when) throw new UsageError(why);
  };
  refuse(
    values.packing,
    "--packing does not go with --objective grpo: completions of a prompt are packed as it is.",
  );
  refuse(
    values.batchTokens !== undefined,
    "--batch-tokens does not go with --objective grpo, whose completions are written after a step is made up; use --batch-size.",
  );
  refuse(
    values.evalData !== undefined || values.evalFraction !== undefined,
    "--eval-data and --eval-fraction do not go with --objective grpo yet: rewards of every step are in metrics.jsonl, and `lowrank eval` measures the result.",
  );
  refuse(
    values.beta !== undefined && values.beta > 0 && values.method === "full",
    "--beta with --objective grpo needs --method lora or qlora: the reference is the base with the adapter off, and full fine-tuning has none.",
  );
  refuse(
    values.reference === "start",
    "--reference start does not go with --objective grpo, whose reference is the base with the adapter off.",
  );
  const given = (key: keyof typeof rolloutDefaults) => values[key] ?? rolloutDefaults[key];
  return Object.fromEntries(
    Object.keys(rolloutDefaults).map((key) => [key, given(key as keyof typeof rolloutDefaults)]),
  );
}

/** So that sums of weighted rewards stay far from where numbers end. */
export const LARGEST_WEIGHT = 1e9;

/** A path, and how much its rewards count: "F.js" or "F.js=0.5". */
export function rewardSpecs(given: readonly string[]): { readonly path: string; readonly weight: number }[] {
  return given.map((text) => {
    const found = /^(.+)=([^=\\/]*)$/s.exec(text);
    if (!found) return { path: text, weight: 1 };
    const weight = found[2]!.trim() === "" ? Number.NaN : Number(found[2]);
    if (!(Math.abs(weight) <= LARGEST_WEIGHT))
      throw new UsageError(
        `--reward ${text}: expected F.js or F.js=WEIGHT, the weight a number from -1e9 to 1e9.`,
      );
    return { path: found[1]!, weight };
  });
}
