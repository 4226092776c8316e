// What the base of a comparison allows: ranks, and methods.

import type { CompareOptions } from "../config/compare-options.ts";
import type { Method } from "../config/fields.ts";
import { locateModel } from "../formats/locate-model.ts";
import { openModelFolder } from "../formats/model-folder.ts";
import { matchTargets, newAdapterConfig } from "../formats/peft.ts";
import { adaptableLayers, allLinear } from "../models/adaptable-layers.ts";
import { whyNotTrained } from "../models/open-model.ts";
import { lastParts, parseTargets } from "../models/target-names.ts";
import { readShape } from "../plan/shape.ts";
import { UserError } from "../util/errors.ts";

/**
 * The methods asked for, without full fine-tuning where the base's weights are quantised, which nothing trains: then `tell`
 * hears why. UserError where nothing else is asked for, or shares of full fine-tuning's quality.
 */
export async function methodsOfBase(
  { methods, model, keep }: CompareOptions,
  tell: (message: string) => void,
): Promise<CompareOptions["methods"]> {
  if (!methods.includes("full")) return methods;
  const folder = await openModelFolder(locateModel(model));
  let why: string | undefined;
  try {
    why = whyNotTrained(folder)?.replaceAll(folder.path, model);
  } finally {
    await folder.close();
  }
  if (why === undefined) return methods;
  const others = methods.filter((method): method is Method => method !== "full");
  if (keep !== undefined || others.length === 0) throw new UserError(why);
  tell(`full fine-tuning is left out: ${why}`);
  return others;
}

/** Of the smallest side of a targeted layer: no adapter can have more. */
export async function largestRankOf({ model, targets }: CompareOptions): Promise<number> {
  const { config } = await readShape(model);
  const asked = parseTargets(targets, lastParts(adaptableLayers(config).map(({ name }) => name)));
  const layers = (asked === "all-linear" ? allLinear : adaptableLayers)(config);
  const names = layers.map(({ name }) => name);
  const matched = matchTargets(newAdapterConfig({ rank: 1, alpha: 1, targets: asked }), names);
  const sides = layers
    .filter(({ name }) => matched.has(name))
    .map(({ inputs, outputs }) => Math.min(inputs, outputs));
  return Math.min(...sides);
}
