// What the forward and the backward pass of adapters share: their sizes as operands, and which of them are multiplied together.
// Not here: the passes (linear.ts, linear-backward.ts).

import type { Tensor } from "../../tensor/tensor.ts";
import type { Adapter, PlainLinearGradPart } from "../backend.ts";
import type { CudaGpu } from "./gpu.ts";
import { addressOf, roundUp } from "./product-operands.ts";

export const drops = ({ dropout }: Adapter) => dropout !== undefined && dropout.p > 0;
export const rankOf = ({ a }: Adapter) => a.shape[0]!;
/** Columns of an adapter among those of others: every one begins at a multiple of 16 bytes. */
export const widthOf = (adapter: Adapter) => roundUp(rankOf(adapter), 8);
export const addressAt = ({ buffer, byteOffset }: Tensor) => buffer.id + byteOffset;

/** Adapters of one launch of productReduceParts. */
const mostTogether = 4;

/** Adapters whose products are one: those that read the same x, so many at a time. */
export function adapterGroups<A extends Adapter>(adapters: readonly A[]): (readonly A[])[] {
  const plain = adapters.filter((adapter) => !drops(adapter));
  const groups: (readonly A[])[] = adapters.filter(drops).map((adapter) => [adapter]);
  for (let first = 0; first < plain.length; first += mostTogether)
    groups.push(plain.slice(first, first + mostTogether));
  return groups;
}

/** First column of each adapter of a group, and behind the last. */
export function columnsOf(group: readonly Adapter[]): readonly number[] {
  const first = [0];
  for (const adapter of group) first.push(first.at(-1)! + widthOf(adapter));
  return first;
}

/** Code of the operands' type. */
export const operandType = ({ precision }: CudaGpu) => (precision === "fp32" ? 0 : 1);

export function checkAdapter(
  gpu: CudaGpu,
  adapter: NonNullable<PlainLinearGradPart["adapter"]>,
  tokens: number,
  shape: readonly number[],
): void {
  const [outputs, inputs] = shape as [number, number];
  const rank = rankOf(adapter);
  addressOf(gpu, adapter.a, rank * inputs, "an adapter's A");
  addressOf(gpu, adapter.b, outputs * rank, "an adapter's B");
  addressOf(gpu, adapter.u, tokens * rank, "an adapter's u");
  if (adapter.dA) addressOf(gpu, adapter.dA, rank * inputs, "dA");
  if (adapter.dB) addressOf(gpu, adapter.dB, outputs * rank, "dB");
}
