// The short convolution and the gated delta rule with its gates: launches of causal-conv*.wgsl and delta-*.wgsl. A sequence's
// matrix stays in registers while its tokens pass; the backward pass walks its columns and its rows, each of which makes
// the sums that lie along it. Not here: what is computed (contract/recurrent.ts).

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import type { ContractKernels, Operands } from "../contract.ts";
import { checkSizes } from "./attention.ts";
import { f32, type Operand, operand } from "./commands.ts";
import { copyFloats } from "./elementwise.ts";
import { type Gpu, plain, withScratch } from "./gpu.ts";

/** Columns or rows of S that a workgroup walks. */
const linesPerGroup = 32;

function convolve(
  gpu: Gpu,
  given: Pick<Operands<"causalConv1d">, "x" | "w" | "bias" | "segments">,
  kind: { silu: boolean; state?: Tensor; dy?: Tensor },
  y: Operand,
): void {
  const { x, w, bias, segments } = given;
  const [c, taps] = w.shape as [number, number];
  const { nothing } = gpu.commands;
  const constants = {
    STATE: kind.state ? 1 : 0,
    BIAS: bias ? 1 : 0,
    SILU: kind.silu ? 1 : 0,
    GRADIENT: kind.dy ? 1 : 0,
  };
  const pipeline = gpu.pipelines.get(`causal-conv ${Object.values(constants)}`, () => ({
    files: ["causal-conv"],
    constants,
  }));
  const optional = (tensor: Tensor | undefined) => (tensor ? operand(tensor) : nothing);
  gpu.commands.launch(
    pipeline,
    [
      operand(x),
      operand(w),
      optional(bias),
      operand(segments.table),
      optional(kind.state),
      optional(kind.dy),
      y,
    ],
    [c, taps],
    [Math.ceil((segments.maxQueries * c) / 256), segments.count, 1],
  );
}

function causalConv1d(gpu: Gpu, operands: Operands<"causalConv1d">): void {
  const { x, w, segments, silu, state, y } = operands;
  if (segments.count === 0 || elementCount(x.shape) === 0) return;
  checkSizes(gpu, "the short convolution", [x, y]);
  const [c, taps] = w.shape as [number, number];
  convolve(gpu, operands, { silu, state }, operand(y));
  if (!state) return;
  const keep = gpu.pipelines.get("causal-conv-keep", plain("causal-conv-keep"));
  gpu.commands.launch(
    keep,
    [operand(x), operand(segments.table), operand(state)],
    [segments.count, c, taps],
    [Math.ceil(c / 256), segments.count, 1],
  );
}

function causalConv1dBackward(gpu: Gpu, operands: Operands<"causalConv1dBackward">): void {
  const { x, w, segments, silu, dy, dx, dw, dBias } = operands;
  if (segments.count === 0 || elementCount(x.shape) === 0) return;
  checkSizes(gpu, "the short convolution", [x, dy]);
  const [c, taps] = w.shape as [number, number];
  const bytes = 4 * elementCount(x.shape);
  const finish = (d: Operand) => {
    const table = operand(segments.table);
    if (dx) {
      const backward = gpu.pipelines.get("causal-conv-backward", plain("causal-conv-backward"));
      const groups = Math.ceil((segments.maxQueries * c) / 256);
      gpu.commands.launch(
        backward,
        [d, operand(w), table, operand(dx)],
        [c, taps],
        [groups, segments.count, 1],
      );
    }
    for (const [OUTPUT, sums] of [dw, dBias].entries()) {
      if (!sums) continue;
      const weights = gpu.pipelines.get(`causal-conv-weights ${OUTPUT}`, () => ({
        files: ["causal-conv-weights"],
        constants: { OUTPUT },
      }));
      const groups = Math.ceil(elementCount(sums.shape) / 64);
      gpu.commands.launch(weights, [operand(x), d, table, operand(sums)], [segments.count, c, taps], groups);
    }
  };
  if (!silu) {
    finish(operand(dy));
    return;
  }
  withScratch(gpu, bytes, (memory) => {
    const d = { buffer: memory, byteOffset: 0, sizeBytes: bytes };
    convolve(gpu, operands, { silu, dy }, d);
    finish(d);
  });
}

function launchGates(
  gpu: Gpu,
  { a, b, logDecay, timeBias }: Pick<Operands<"deltaGates">, "a" | "b" | "logDecay" | "timeBias">,
  BACKWARD: 0 | 1,
  first: Tensor,
  second: Tensor,
): void {
  const count = elementCount(a.shape);
  if (count === 0) return;
  const pipeline = gpu.pipelines.get(`delta-gates ${BACKWARD}`, () => ({
    files: ["softplus", "delta-gates"],
    constants: { BACKWARD },
  }));
  const bound = [a, b, logDecay, timeBias, first, second].map((tensor) => operand(tensor));
  gpu.commands.launch(pipeline, bound, [count, logDecay.shape[0]!], Math.ceil(count / 256));
}

function deltaGatesBackward(gpu: Gpu, operands: Operands<"deltaGatesBackward">): void {
  const { a, logDecay, timeBias, dg, dBeta, da, db, dLogDecay, dTimeBias } = operands;
  const [tokens, heads] = a.shape as [number, number];
  if (tokens === 0) return;
  for (const [OUTPUT, sums] of [dLogDecay, dTimeBias].entries()) {
    if (!sums) continue;
    const pipeline = gpu.pipelines.get(`delta-gates-sums ${OUTPUT}`, () => ({
      files: ["softplus", "delta-gates-sums"],
      constants: { OUTPUT },
    }));
    const bound = [a, logDecay, timeBias, dg, sums].map((tensor) => operand(tensor));
    gpu.commands.launch(pipeline, bound, [tokens, heads], heads);
  }
  copyFloats(gpu, dg, da);
  copyFloats(gpu, dBeta, db);
  launchGates(gpu, operands, 1, da, db);
}

type Rule = Pick<
  Operands<"gatedDeltaRule">,
  "qkv" | "g" | "beta" | "segments" | "kHeads" | "keyWidth" | "scale" | "epsilon"
>;

/** A part of scratch memory, by elements. */
const stretch = (memory: Operand["buffer"], start: number, count: number): Operand => ({
  buffer: memory,
  byteOffset: 4 * start,
  sizeBytes: 4 * count,
});

function unitRows(gpu: Gpu, { qkv, kHeads, keyWidth, scale, epsilon }: Rule, unit: Operand): void {
  const [tokens, channels] = qkv.shape as [number, number];
  const rows = tokens * 2 * kHeads;
  const pipeline = gpu.pipelines.get(`delta-unit ${keyWidth}`, () => ({
    files: ["delta-unit"],
    constants: { KD: keyWidth },
  }));
  const params = [rows, channels, kHeads, f32(scale), f32(epsilon)];
  gpu.commands.launch(pipeline, [operand(qkv), unit], params, rows);
}

function walkColumns(
  gpu: Gpu,
  rule: Rule,
  valueWidth: number,
  unit: Operand,
  state: Tensor | undefined,
  OUTPUT: 0 | 1,
  y: Operand,
): void {
  const { qkv, g, beta, segments, kHeads, keyWidth } = rule;
  const vHeads = g.shape[1]!;
  const constants = { KD: keyWidth, VD: valueWidth, STATE: state ? 1 : 0, OUTPUT };
  const pipeline = gpu.pipelines.get(`delta-columns ${Object.values(constants)}`, () => ({
    files: ["delta-columns"],
    constants,
  }));
  const bound = [unit, operand(qkv), operand(g), operand(beta), operand(segments.table)];
  gpu.commands.launch(
    pipeline,
    [...bound, state ? operand(state) : gpu.commands.nothing, y],
    [qkv.shape[1]!, kHeads, vHeads, segments.count],
    [Math.ceil(valueWidth / linesPerGroup), vHeads, segments.count],
  );
}

function gatedDeltaRule(gpu: Gpu, operands: Operands<"gatedDeltaRule">): void {
  const { qkv, segments, kHeads, keyWidth, out, state } = operands;
  const [tokens, , valueWidth] = out.shape as [number, number, number];
  if (segments.count === 0 || tokens === 0) return;
  checkSizes(gpu, "the delta rule", [qkv, out, ...(state ? [state] : [])]);
  const unitSize = tokens * 2 * kHeads * keyWidth;
  withScratch(gpu, 4 * unitSize, (memory) => {
    const unit = stretch(memory, 0, unitSize);
    unitRows(gpu, operands, unit);
    walkColumns(gpu, operands, valueWidth, unit, state, 0, operand(out));
  });
}

function gatedDeltaRuleBackward(gpu: Gpu, operands: Operands<"gatedDeltaRuleBackward">): void {
  const { qkv, g, beta, segments, kHeads, keyWidth, scale, epsilon, dOut, dqkv, dg, dBeta } = operands;
  const [tokens, vHeads, valueWidth] = dOut.shape as [number, number, number];
  if (segments.count === 0 || tokens === 0) return;
  checkSizes(gpu, "the delta rule", [qkv, dOut]);
  const channels = qkv.shape[1]!;
  const constants = { KD: keyWidth, VD: valueWidth };
  const launch = (
    file: "delta-columns-backward" | "delta-rows" | "delta-scalars" | "delta-unit-backward",
    more: Record<string, number>,
    bound: readonly Operand[],
    params: readonly number[],
    groups: number | readonly [number, number, number],
  ) => {
    const all = { ...constants, ...more };
    const pipeline = gpu.pipelines.get(`${file} ${Object.values(all)}`, () => ({
      files: [file],
      constants: all,
    }));
    gpu.commands.launch(pipeline, bound, params, groups);
  };
  const sizes = {
    unit: tokens * 2 * kHeads * keyWidth,
    errors: 2 * tokens * vHeads * valueWidth,
    rows: 3 * tokens * vHeads * keyWidth,
  };
  withScratch(gpu, 4 * sizes.unit, (unitMemory) =>
    withScratch(gpu, 4 * sizes.errors, (errorMemory) =>
      withScratch(gpu, 4 * sizes.rows, (rowMemory) => {
        const unit = stretch(unitMemory, 0, sizes.unit);
        const errors = stretch(errorMemory, 0, sizes.errors);
        const rows = stretch(rowMemory, 0, sizes.rows);
        unitRows(gpu, operands, unit);
        walkColumns(gpu, operands, valueWidth, unit, undefined, 1, errors);
        const walked = [unit, operand(dOut), operand(g), operand(beta), operand(segments.table), errors];
        const groups = (width: number) => [Math.ceil(width / linesPerGroup), vHeads, segments.count] as const;
        launch(
          "delta-columns-backward",
          {},
          [...walked, operand(dqkv)],
          [channels, kHeads, vHeads, tokens],
          groups(valueWidth),
        );
        for (const PHASE of [0, 1])
          launch("delta-rows", { PHASE }, [...walked, rows], [kHeads, vHeads, tokens], groups(keyWidth));
        launch(
          "delta-scalars",
          {},
          [unit, errors, rows, operand(dg), operand(dBeta)],
          [kHeads, vHeads, tokens],
          tokens * vHeads,
        );
        const decays = gpu.pipelines.get("delta-decays", plain("delta-decays"));
        gpu.commands.launch(
          decays,
          [operand(segments.table), operand(dg)],
          [vHeads],
          [Math.ceil(vHeads / 64), segments.count, 1],
        );
        const count = tokens * 2 * kHeads;
        launch(
          "delta-unit-backward",
          {},
          [operand(qkv), rows, operand(dqkv)],
          [count, channels, kHeads, vHeads, tokens, f32(scale), f32(epsilon)],
          count,
        );
      }),
    ),
  );
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

export function recurrentKernels(gpu: Gpu): RecurrentKernels {
  return {
    causalConv1d: (operands) => causalConv1d(gpu, operands),
    causalConv1dBackward: (operands) => causalConv1dBackward(gpu, operands),
    deltaGates: (operands) => launchGates(gpu, operands, 0, operands.g, operands.beta),
    deltaGatesBackward: (operands) => deltaGatesBackward(gpu, operands),
    gatedDeltaRule: (operands) => gatedDeltaRule(gpu, operands),
    gatedDeltaRuleBackward: (operands) => gatedDeltaRuleBackward(gpu, operands),
  };
}
