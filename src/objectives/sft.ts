// Supervised fine-tuning: the mean cross-entropy of the step's target tokens.

import type { ObjectiveKind } from "./objective.ts";

export const sft: ObjectiveKind = {
  about: "answers",
  rows: "targets",
  defaults: {},
  make: () => ({}),
};
