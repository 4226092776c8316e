// What a run learns by, as options: the objective and what objectives take, each with the defaults of those that take it.
// The objectives are objectives/'s; here is who takes what.

import { type ObjectiveName, objectiveNames, objectives } from "../objectives/index.ts";
import type { ObjectiveOptions } from "../objectives/objective.ts";
import { UsageError } from "../util/errors.ts";
import { choice, type Field, real } from "./define.ts";
import { flagName } from "./resolve.ts";

type Taken = keyof ObjectiveOptions;

/** Which objectives take an option: "dpo, cpo". */
function takers(option: Taken): string {
  return objectiveNames.filter((name) => option in objectives[name].defaults).join(", ");
}

/** "0.1; kto: 1", the first of them for all that take no other. */
function defaultsText(option: Taken): string {
  const own = objectiveNames.filter((name) => option in objectives[name].defaults);
  const first = objectives[own[0]!].defaults[option];
  const others = own.flatMap((name) => {
    const value = objectives[name].defaults[option];
    return value === first ? [] : [`; ${name}: ${value}`];
  });
  return `${first}${others.join("")}`;
}

function number(
  option: Taken,
  what: string,
  range: { min: number; max: number; open?: true },
): Field<number | undefined, number | undefined> {
  return real(`${what} (${takers(option)})`, { ...range, defaultText: defaultsText(option) });
}

const abouts = objectiveNames.map((name) => `${name}: ${objectives[name].about}`).join("; ");
const lossTypes = [...new Set(objectiveNames.flatMap((name) => objectives[name].lossTypes ?? []))];

export const objectiveFields = {
  objective: choice(objectiveNames, `what to learn from: ${abouts}`, { default: "sft" }),
  lossType: choice(lossTypes, `form of the loss (${takers("lossType")})`, {
    defaultText: defaultsText("lossType"),
  }),
  beta: number("beta", "how near the reference the model stays, or the weight of the preference", {
    min: 0,
    max: 1e6,
  }),
  gamma: number("gamma", "how far ahead the chosen answer is to be", { min: 0, max: 1e6 }),
  labelSmoothing: number("labelSmoothing", "share of preferences that are taken to be the wrong way round", {
    min: 0,
    max: 0.499,
  }),
  cpoAlpha: number("cpoAlpha", "weight of the chosen answers' cross-entropy", { min: 0, max: 1e6 }),
  desirableWeight: number("desirableWeight", "weight of answers rated good", { min: 0, max: 1e6 }),
  undesirableWeight: number("undesirableWeight", "weight of answers rated bad", { min: 0, max: 1e6 }),
  reference: choice(
    ["base", "start"],
    "with --init-adapter, what the reference is: the base without the adapter, or the adapter as it begins",
    { defaultText: "base" },
  ),
};

interface RunValues extends ObjectiveOptions {
  readonly objective: ObjectiveName;
  readonly reference?: string | undefined;
  readonly trainOn?: string | undefined;
  readonly initAdapter?: string | undefined;
  readonly batchSize: number;
  readonly packing: boolean;
}

/** The objective's options with its defaults; UsageError for those that it does not take. */
export function finishObjective(values: RunValues): ObjectiveOptions {
  if (values.objective !== "sft" && values.trainOn !== undefined) {
    throw new UsageError(
      `--train-on is --objective sft's; ${values.objective} always scores completions, or the last turns of conversations.`,
    );
  }
  if (values.reference !== undefined && values.initAdapter === undefined)
    throw new UsageError("--reference needs --init-adapter; without one the reference is the model itself.");
  if (values.objective === "kto" && values.batchSize < 2 && !values.packing) {
    throw new UsageError(
      "--objective kto holds each answer against those of other prompts in its micro-batch: it needs a --batch-size of at least 2.",
    );
  }
  const { defaults, lossTypes: own, make } = objectives[values.objective];
  if (values.beta === 0 && "beta" in defaults && defaults.beta !== 0)
    throw new UsageError(`--beta 0 leaves ${values.objective} nothing to learn; expected more than 0.`);
  const given = Object.keys(objectiveFields) as (Taken | "objective" | "reference")[];
  for (const option of given) {
    if (
      option === "objective" ||
      option === "reference" ||
      values[option] === undefined ||
      option in defaults
    )
      continue;
    throw new UsageError(
      `${flagName(option)} is not ${values.objective}'s; it goes with --objective ${takers(option).replaceAll(", ", " or ")}.`,
    );
  }
  if (values.lossType !== undefined && !own?.includes(values.lossType)) {
    throw new UsageError(
      `--loss-type ${values.lossType} is not ${values.objective}'s; expected ${own!.join(", ")}.`,
    );
  }
  const whole = Object.entries(defaults).map(([option, value]) => [option, values[option as Taken] ?? value]);
  const options = Object.fromEntries(whole) as ObjectiveOptions;
  make(options);
  return options;
}
