// Registry of optimizers by the name users give. Adding one = one file + one line here.

import { adamw } from "./adamw.ts";
import { adamw8bit } from "./adamw-8bit.ts";
import { lion } from "./lion.ts";
import { defaultOptimizerOptions, type OptimizerFactory, type OptimizerOptions } from "./optimizer.ts";

const registry = { adamw, adamw8bit, lion } satisfies Record<string, OptimizerFactory>;
export type OptimizerName = keyof typeof registry;
export const optimizers: Readonly<Record<OptimizerName, OptimizerFactory>> = registry;
export const optimizerNames = Object.keys(registry) as OptimizerName[];

/** An optimizer's constants where nobody gives others. */
export function optimizerDefaults(name: OptimizerName): OptimizerOptions {
  return { ...defaultOptimizerOptions, ...optimizers[name].defaults };
}

/** The help of a constant that optimizers take differently: "0.999; lion: 0.99". */
export function defaultsText(constant: keyof OptimizerOptions): string {
  const others = optimizerNames.flatMap((name) => {
    const own = optimizers[name].defaults?.[constant];
    return own === undefined ? [] : [`; ${name}: ${own}`];
  });
  return `${defaultOptimizerOptions[constant]}${others.join("")}`;
}
