// The short convolution and the gated delta rule with its gates: launches of native/cuda/kernels/causal-conv.cu,
// delta-gates.cu and delta-rule.cu. A sequence's matrix stays in registers while its tokens pass; the backward pass walks
// its columns and its rows. Not here: what is computed (contract/recurrent.ts).

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import { UserError } from "../../util/errors.ts";
import type { ContractKernels, Operands } from "../contract.ts";
import { type CudaGpu, scratchTensor, withScratch } from "./gpu.ts";

/** Columns or rows of S that a block walks, rows of kernels with a warp each, and the widest S. */
const [linesEach, rowsEach, widest] = [32, 8, 256];

function convolve(
  gpu: CudaGpu,
  { x, w, bias, segments, silu }: Pick<Operands<"causalConv1d">, "x" | "w" | "bias" | "segments" | "silu">,
  state: Tensor | undefined,
  dy: Tensor | undefined,
  y: Tensor,
): void {
  const [channels, taps] = w.shape as [number, number];
  const tiles = Math.ceil((segments.maxQueries * channels) / 256);
  const numbers = { channels, taps, silu: silu ? 1 : 0, tiles };
  gpu.launch("causalConv", [tiles * segments.count], {
    x,
    w,
    bias,
    table: segments.table,
    state,
    dy,
    y,
    ...numbers,
  });
}

function causalConv1d(gpu: CudaGpu, operands: Operands<"causalConv1d">): void {
  const { x, w, segments, state, y } = operands;
  if (segments.count === 0 || elementCount(x.shape) === 0) return;
  convolve(gpu, operands, state, undefined, y);
  if (!state) return;
  const [channels, taps] = w.shape as [number, number];
  const { table, count } = segments;
  gpu.launch("causalConvKeep", [count, Math.ceil(channels / 256)], {
    x,
    table,
    state,
    count,
    channels,
    taps,
  });
}

function causalConv1dBackward(gpu: CudaGpu, operands: Operands<"causalConv1dBackward">): void {
  const { x, w, segments, silu, dy, dx, dw, dBias } = operands;
  if (segments.count === 0 || elementCount(x.shape) === 0) return;
  const [channels, taps] = w.shape as [number, number];
  const { table, count, maxQueries } = segments;
  const finish = (d: Tensor) => {
    const tiles = Math.ceil((maxQueries * channels) / 256);
    if (dx) gpu.launch("causalConvBackward", [tiles * count], { d, w, table, dx, channels, taps, tiles });
    if (!dw && !dBias) return;
    const values = { x, d, table, dw, dBias, count, channels, taps };
    gpu.launch("causalConvWeights", [Math.ceil(channels / 32), taps + 1], values);
  };
  if (!silu) {
    finish(dy);
    return;
  }
  withScratch(gpu, 4 * elementCount(x.shape), (memory) => {
    const d = scratchTensor(memory, x.shape);
    convolve(gpu, operands, undefined, dy, d);
    finish(d);
  });
}

function deltaGatesBackward(gpu: CudaGpu, operands: Operands<"deltaGatesBackward">): void {
  const { a, b, logDecay, timeBias, dg, dBeta, da, db, dLogDecay, dTimeBias } = operands;
  const [tokens, heads] = a.shape as [number, number];
  const count = tokens * heads;
  if (count === 0) return;
  if (dLogDecay || dTimeBias)
    gpu.launch("deltaGatesSums", [heads], { a, logDecay, timeBias, dg, dLogDecay, dTimeBias, tokens, heads });
  const values = { a, b, logDecay, timeBias, dg, dBeta, first: da, second: db, count, heads };
  gpu.launch("deltaGates", [Math.ceil(count / 256)], values);
}

type Rule = Pick<
  Operands<"gatedDeltaRule">,
  "qkv" | "g" | "beta" | "segments" | "kHeads" | "keyWidth" | "scale" | "epsilon"
>;

/** The kernels' registers hold a line of 128 or of 256. */
function lineSize(keyWidth: number, valueWidth: number, line: number): 128 | 256 {
  if (Math.max(keyWidth, valueWidth) > widest)
    throw new UserError(
      `the delta rule with heads ${keyWidth} x ${valueWidth} wide: the CUDA backend takes up to ${widest}; use --backend cpu`,
    );
  return line <= 128 ? 128 : 256;
}

/** Numbers that the walks share. */
function sizesOf({ qkv, g, kHeads, keyWidth }: Rule, valueWidth: number) {
  return { channels: qkv.shape[1]!, kHeads, vHeads: g.shape[1]!, keyWidth, valueWidth };
}

function unitRows(gpu: CudaGpu, { qkv, kHeads, keyWidth, scale, epsilon }: Rule, unit: Tensor): void {
  const [tokens, channels] = qkv.shape as [number, number];
  const rows = tokens * 2 * kHeads;
  const values = { qkv, unit, rows, channels, kHeads, keyWidth, scale, epsilon };
  gpu.launch("deltaUnit", [Math.ceil(rows / rowsEach)], values);
}

function walkColumns(
  gpu: CudaGpu,
  rule: Rule,
  valueWidth: number,
  unit: Tensor,
  state: Tensor | undefined,
  y: Tensor,
  errors: boolean,
): void {
  const { qkv, g, beta, segments, keyWidth } = rule;
  const { table, count } = segments;
  const tiles = Math.ceil(valueWidth / linesEach);
  const sizes = sizesOf(rule, valueWidth);
  const values = { unit, qkv, g, beta, table, state, y, ...sizes, count, tiles, errors: errors ? 1 : 0 };
  gpu.launch(
    `deltaColumns${lineSize(keyWidth, valueWidth, keyWidth)}`,
    [tiles * count, sizes.vHeads],
    values,
  );
}

function gatedDeltaRule(gpu: CudaGpu, operands: Operands<"gatedDeltaRule">): void {
  const { segments, kHeads, keyWidth, out, state } = operands;
  const [tokens, , valueWidth] = out.shape as [number, number, number];
  if (segments.count === 0 || tokens === 0) return;
  const shape = [tokens, 2 * kHeads, keyWidth];
  withScratch(gpu, 4 * elementCount(shape), (memory) => {
    const unit = scratchTensor(memory, shape);
    unitRows(gpu, operands, unit);
    walkColumns(gpu, operands, valueWidth, unit, state, out, false);
  });
}

function gatedDeltaRuleBackward(gpu: CudaGpu, operands: Operands<"gatedDeltaRuleBackward">): void {
  const { qkv, g, beta, segments, kHeads, keyWidth, scale, epsilon, dOut, dqkv, dg, dBeta } = operands;
  const [tokens, vHeads, valueWidth] = dOut.shape as [number, number, number];
  if (segments.count === 0 || tokens === 0) return;
  const { table, count } = segments;
  const sizes = sizesOf(operands, valueWidth);
  const shapes = {
    unit: [tokens, 2 * kHeads, keyWidth],
    values: [tokens, vHeads, valueWidth],
    keys: [tokens, vHeads, keyWidth],
  };
  const [unitCount, valueCount, keyCount] = Object.values(shapes).map(elementCount) as [
    number,
    number,
    number,
  ];
  withScratch(gpu, 4 * (unitCount + 2 * valueCount + 3 * keyCount), (memory) => {
    let next = 0;
    const take = (shape: readonly number[]): Tensor => {
      const tensor = { ...scratchTensor(memory, shape), byteOffset: 4 * next };
      next += elementCount(shape);
      return tensor;
    };
    const [unit, errors, x] = [take(shapes.unit), take(shapes.values), take(shapes.values)];
    const [queries, read, written] = [take(shapes.keys), take(shapes.keys), take(shapes.keys)];
    unitRows(gpu, operands, unit);
    walkColumns(gpu, operands, valueWidth, unit, undefined, errors, true);
    const walked = { unit, dOut, g, beta, table };
    const columns = Math.ceil(valueWidth / linesEach);
    gpu.launch(`deltaColumnsBack${lineSize(keyWidth, valueWidth, keyWidth)}`, [columns * count, vHeads], {
      ...{ ...walked, x, dqkv, ...sizes },
      tiles: columns,
    });
    const tiles = Math.ceil(keyWidth / linesEach);
    const numbers = { kHeads, vHeads, keyWidth, valueWidth };
    const rows = { ...walked, errors, x, queries, read, written, ...numbers, tiles };
    const line = lineSize(keyWidth, valueWidth, valueWidth);
    gpu.launch(`deltaRows${line}`, [tiles * count, vHeads], rows);
    gpu.launch(`deltaRowsBack${line}`, [tiles * count, vHeads], rows);
    const gates = tokens * vHeads;
    const scalars = { unit, errors, x, queries, read, written, dg, dBeta, gates, ...numbers };
    gpu.launch("deltaScalars", [Math.ceil(gates / rowsEach)], scalars);
    gpu.launch("deltaDecays", [count, vHeads], { table, dg, vHeads });
    const heads = tokens * 2 * kHeads;
    const back = { qkv, queries, read, written, dqkv, rows: heads, channels: sizes.channels };
    const last = { ...back, kHeads, vHeads, keyWidth, scale, epsilon };
    gpu.launch("deltaUnitBack", [Math.ceil(heads / rowsEach)], last);
  });
}

type RecurrentKernels = Pick<
  ContractKernels,
  | "causalConv1d"
  | "causalConv1dBackward"
  | "deltaGates"
  | "deltaGatesBackward"
  | "gatedDeltaRule"
  | "gatedDeltaRuleBackward"
>;

export function recurrentKernels(gpu: CudaGpu): RecurrentKernels {
  return {
    causalConv1d: (operands) => causalConv1d(gpu, operands),
    causalConv1dBackward: (operands) => causalConv1dBackward(gpu, operands),
    deltaGates({ a, b, logDecay, timeBias, g, beta }) {
      const count = elementCount(a.shape);
      const values = { a, b, logDecay, timeBias, first: g, second: beta, count, heads: logDecay.shape[0]! };
      gpu.launch("deltaGates", [Math.ceil(count / 256)], values);
    },
    deltaGatesBackward: (operands) => deltaGatesBackward(gpu, operands),
    gatedDeltaRule: (operands) => gatedDeltaRule(gpu, operands),
    gatedDeltaRuleBackward: (operands) => gatedDeltaRuleBackward(gpu, operands),
  };
}
