// Registry of optimizers by the name users give. Adding one = one file + one line here.

import { adamw } from "./adamw.ts";
import { adamw8bit } from "./adamw-8bit.ts";
import type { OptimizerFactory } from "./optimizer.ts";

export const optimizers = { adamw, adamw8bit } satisfies Record<string, OptimizerFactory>;
export type OptimizerName = keyof typeof optimizers;
