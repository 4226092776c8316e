// Factors of experts between PEFT's order and ours. PEFT: A [E*R, in] with rows (expert, rank), B [out, R*E] with columns
// (rank, expert), and gpt-oss' outputs of gate and up in turn. Ours: A alike, B [E, out, R] with gates before ups.
// peft 0.21, lora.ParamWrapper.get_delta_weight.

import { inTurn } from "../formats/expert-layout.ts";
import type { AdapterPair, TensorValues } from "../formats/peft.ts";
import type { DecoderConfig } from "./decoder-config.ts";

/** Row of PEFT's B for each of ours. */
function rowOf(module: string, out: number, { mixture }: DecoderConfig): (row: number) => number {
  const turns = mixture?.files === "interleaved" && module.endsWith(".gate_up_proj");
  return turns ? (row) => inTurn(row, out) : (row) => row;
}

/** B as layers hold it: of experts [E, out, R], else as it is. */
export function ownB(module: string, { b, experts }: AdapterPair, config: DecoderConfig): TensorValues {
  if (experts === undefined) return b;
  const [out, columns] = b.shape as [number, number];
  const rank = columns / experts;
  const stored = rowOf(module, out, config);
  const values = new Float32Array(b.values.length);
  for (let o = 0; o < out; o++) {
    const from = stored(o) * columns;
    for (let r = 0; r < rank; r++)
      for (let e = 0; e < experts; e++) values[(e * out + o) * rank + r] = b.values[from + r * experts + e]!;
  }
  return { shape: [experts, out, rank], values };
}

/** B [E, out, R] as PEFT's files hold it. */
export function peftB(module: string, { shape, values }: TensorValues, config: DecoderConfig): TensorValues {
  const [experts, out, rank] = shape as [number, number, number];
  const stored = rowOf(module, out, config);
  const made = new Float32Array(values.length);
  for (let o = 0; o < out; o++) {
    const to = stored(o) * rank * experts;
    for (let r = 0; r < rank; r++)
      for (let e = 0; e < experts; e++) made[to + r * experts + e] = values[(e * out + o) * rank + r]!;
  }
  return { shape: [out, rank * experts], values: made };
}
