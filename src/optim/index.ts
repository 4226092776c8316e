// Registry of optimizers by the name users give. Adding one = one file + one line here.

import { adamw } from "./adamw.ts";
import type { OptimizerFactory } from "./optimizer.ts";

export const optimizers = { adamw } satisfies Record<string, OptimizerFactory>;
export type OptimizerName = keyof typeof optimizers;
