// Registry of objectives by the name users give. Adding one = one file + one line here.

import { cpo } from "./cpo.ts";
import { dpo } from "./dpo.ts";
import { grpo } from "./grpo.ts";
import { kto } from "./kto.ts";
import type { Objective, ObjectiveKind, ObjectiveOptions } from "./objective.ts";
import { orpo } from "./orpo.ts";
import { sft } from "./sft.ts";
import { simpo } from "./simpo.ts";

const registry = { sft, dpo, orpo, simpo, kto, cpo, grpo } satisfies Record<string, ObjectiveKind>;
export type ObjectiveName = keyof typeof registry;
export const objectives: Readonly<Record<ObjectiveName, ObjectiveKind>> = registry;
export const objectiveNames = Object.keys(registry) as ObjectiveName[];

/** An objective with these options; those that it takes and that are not given have its defaults. */
export function objectiveOf(name: ObjectiveName, options: ObjectiveOptions = {}): Objective {
  const { defaults, make } = objectives[name];
  const whole = Object.entries(defaults).map(([key, value]) => [
    key,
    options[key as keyof ObjectiveOptions] ?? value,
  ]);
  return make(Object.fromEntries(whole) as ObjectiveOptions);
}
