// A run whose loss or gradient is no longer a number, told with the rows of that step and what is saved. Not here: how
// such a step is kept from changing anything (session/update-gate.ts).

import type { Batch } from "../data/assemble.ts";
import { rowLabel } from "../data/row.ts";
import { DivergedError } from "../util/errors.ts";

/** The error of a step whose micro-batches had these mean losses; `kept` is the last good state. */
export function divergence(
  step: number,
  losses: readonly number[],
  batches: readonly Batch[],
  kept: { readonly step: number; readonly folder: string } | undefined,
): DivergedError {
  const bad = batches.filter((_, i) => !Number.isFinite(losses[i]));
  const rows = (bad.length > 0 ? bad : batches).flatMap((batch) => batch.rowIds.map(rowLabel));
  const shown = rows.slice(0, 8).join(", ") + (rows.length > 8 ? ` and ${rows.length - 8} more` : "");
  const what = bad.length > 0 ? "the loss" : "the gradient";
  const saved = kept ? ` The last good state, step ${kept.step}, is saved in ${kept.folder}.` : "";
  return new DivergedError(
    `step ${step}: ${what} is not a finite number, on rows: ${shown}.${saved} Lower --learning-rate, or look at these rows`,
  );
}
