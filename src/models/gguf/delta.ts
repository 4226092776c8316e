// Weights of the gated delta rule as llama.cpp has them: value heads that read one key head stand side by side in
// checkpoints and a stride of all key heads apart there, so that a key's heads repeat as a whole; decays are -exp(A_log). Not
// here: names (names.ts), how weights are walked (publish/gguf-model.ts).

import type { DecoderConfig, DeltaConfig } from "../decoder-config.ts";
import type { WeightSpec } from "../decoder-weights.ts";

/** Parts of the mixer whose rows are value heads, after some that are not, and the rows of one head. */
const rowsOfHeads: Readonly<Record<string, (delta: DeltaConfig) => { before: number; each: number }>> = {
  inQkv: (delta) => ({ before: keyRows(delta), each: delta.valueWidth }),
  conv: (delta) => ({ before: keyRows(delta), each: delta.valueWidth }),
  inZ: ({ valueWidth }) => ({ before: 0, each: valueWidth }),
  inA: () => ({ before: 0, each: 1 }),
  inB: () => ({ before: 0, each: 1 }),
  logDecay: () => ({ before: 0, each: 1 }),
  timeBias: () => ({ before: 0, each: 1 }),
};

const keyRows = ({ keyHeads, keyWidth }: DeltaConfig) => 2 * keyHeads * keyWidth;

function deltaOf(config: DecoderConfig, { layer }: WeightSpec): DeltaConfig | undefined {
  return layer === undefined ? undefined : config.layers[layer]!.delta;
}

/** Which of a checkpoint's value heads stands at place i. */
function headAt({ keyHeads, valueHeads }: DeltaConfig, i: number): number {
  return (i % keyHeads) * (valueHeads / keyHeads) + Math.floor(i / keyHeads);
}

/** Ranges of a weight's rows in the order in which a file has them; one where they stay as they are. */
export function rowRanges(
  config: DecoderConfig,
  spec: WeightSpec,
): readonly { readonly begin: number; readonly end: number }[] {
  const rows = spec.shape[0]!;
  const delta = deltaOf(config, spec);
  const heads = delta && rowsOfHeads[spec.part ?? ""]?.(delta);
  if (!delta || !heads || delta.keyHeads === delta.valueHeads) return [{ begin: 0, end: rows }];
  const { before, each } = heads;
  const ofHeads = Array.from({ length: delta.valueHeads }, (_, i) => {
    const begin = before + headAt(delta, i) * each;
    return { begin, end: begin + each };
  });
  return before > 0 ? [{ begin: 0, end: before }, ...ofHeads] : ofHeads;
}

/** Rows of such a matrix, `width` numbers each, in the order that a file has them. */
export function orderRows(
  config: DecoderConfig,
  spec: WeightSpec,
  values: Float32Array,
  width: number,
): Float32Array {
  const ranges = rowRanges(config, spec);
  if (ranges.length === 1) return values;
  const out = new Float32Array(values.length);
  let at = 0;
  for (const { begin, end } of ranges) {
    out.set(values.subarray(begin * width, end * width), at);
    at += (end - begin) * width;
  }
  return out;
}

/** Stretches of columns in the order in which a file has them: those of the projection behind the heads; undefined where all stay. */
export function columnOrder(
  config: DecoderConfig,
  spec: WeightSpec,
): { readonly width: number; readonly order: readonly number[] } | undefined {
  const delta = deltaOf(config, spec);
  if (!delta || spec.part !== "out" || delta.keyHeads === delta.valueHeads) return undefined;
  const order = Array.from({ length: delta.valueHeads }, (_, i) => headAt(delta, i));
  return { width: delta.valueWidth, order };
}

/** Columns in that order. `values` are whole rows. */
export function orderColumns(config: DecoderConfig, spec: WeightSpec, values: Float32Array): Float32Array {
  const columns = columnOrder(config, spec);
  if (!columns) return values;
  const { width, order } = columns;
  const rowWidth = width * order.length;
  const out = new Float32Array(values.length);
  for (let row = 0; row < values.length; row += rowWidth)
    for (const [i, place] of order.entries()) {
      const from = row + place * width;
      out.set(values.subarray(from, from + width), row + i * width);
    }
  return out;
}

/** Whether a file has -exp of a weight in its place. */
export const isDecay = ({ part }: WeightSpec) => part === "logDecay";

/** A weight's numbers as a file has them. */
export function transformed(spec: WeightSpec, values: Float32Array): Float32Array {
  return isDecay(spec) ? values.map((value) => -Math.exp(value)) : values;
}
