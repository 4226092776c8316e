// Reference kernels of layers that walk along a sequence: the short convolution, the gates and the gated delta rule, token
// by token. Formulas carry their sources in contract/.

import type { ContractKernels, Operands } from "../contract.ts";
import type { ReferenceMemory } from "./memory.ts";

interface Stretch {
  /** First row of the pass, and how many. */
  readonly start: number;
  readonly length: number;
  readonly slot: number;
  /** It goes on from the slot's state. */
  readonly continues: boolean;
}

function stretches(
  memory: ReferenceMemory,
  { table, count }: Operands<"causalConv1d">["segments"],
): Stretch[] {
  const rows = memory.ints(table);
  return Array.from({ length: count }, (_, s) => {
    const [start, length, slot, total] = rows.subarray(4 * s, 4 * s + 4) as unknown as number[];
    return { start: start!, length: length!, slot: slot!, continues: total! > length! };
  });
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

function causalConv1d(memory: ReferenceMemory, operands: Operands<"causalConv1d">): void {
  const { x, w, bias, segments, silu, state, y } = operands;
  const [channels, taps] = w.shape as [number, number];
  const [xs, ws, ys] = [memory.floats(x), memory.floats(w), memory.floats(y)];
  const biases = bias && memory.floats(bias);
  const states = state && memory.floats(state);
  for (const { start, length, slot, continues } of stretches(memory, segments)) {
    // Inputs of the segment with the `taps` before it.
    const inputs = new Float64Array((taps + length) * channels);
    if (states && continues)
      inputs.set(states.subarray(slot * taps * channels, (slot + 1) * taps * channels));
    inputs.set(xs.subarray(start * channels, (start + length) * channels), taps * channels);
    for (let t = 0; t < length; t++) {
      for (let c = 0; c < channels; c++) {
        let sum = biases?.[c] ?? 0;
        for (let i = 0; i < taps; i++) sum += ws[c * taps + i]! * inputs[(t + 1 + i) * channels + c]!;
        ys[(start + t) * channels + c] = silu ? sum * sigmoid(sum) : sum;
      }
    }
    states?.set(inputs.subarray(length * channels), slot * taps * channels);
  }
}

function causalConv1dBackward(memory: ReferenceMemory, operands: Operands<"causalConv1dBackward">): void {
  const { x, w, bias, segments, silu, dy, dx, dw, dBias } = operands;
  const [channels, taps] = w.shape as [number, number];
  const [xs, ws, dys] = [memory.floats(x), memory.floats(w), memory.floats(dy)];
  const biases = bias && memory.floats(bias);
  const dxs = new Float64Array(xs.length);
  const dws = new Float64Array(ws.length);
  const dBiases = new Float64Array(channels);
  for (const { start, length } of stretches(memory, segments)) {
    for (let t = 0; t < length; t++) {
      for (let c = 0; c < channels; c++) {
        const first = Math.max(0, taps - 1 - t);
        const at = (i: number) => (start + t - taps + 1 + i) * channels + c;
        let sum = biases?.[c] ?? 0;
        for (let i = first; i < taps; i++) sum += ws[c * taps + i]! * xs[at(i)]!;
        const s = sigmoid(sum);
        const d = dys[(start + t) * channels + c]! * (silu ? s * (1 + sum * (1 - s)) : 1);
        dBiases[c]! += d;
        for (let i = first; i < taps; i++) {
          dxs[at(i)]! += d * ws[c * taps + i]!;
          dws[c * taps + i]! += d * xs[at(i)]!;
        }
      }
    }
  }
  if (dx) memory.floats(dx).set(dxs);
  if (dw) addTo(memory.floats(dw), dws);
  if (dBias) addTo(memory.floats(dBias), dBiases);
}

function addTo(sums: Float32Array | Float64Array, more: Float64Array): void {
  for (let i = 0; i < sums.length; i++) sums[i]! += more[i]!;
}

function softplus(x: number): number {
  return x > 20 ? x : Math.log1p(Math.exp(x));
}

function deltaGates(memory: ReferenceMemory, operands: Operands<"deltaGates">): void {
  const { a, b, logDecay, timeBias, g, beta } = operands;
  const heads = logDecay.shape[0]!;
  const [as, bs, gs, betas] = [memory.floats(a), memory.floats(b), memory.floats(g), memory.floats(beta)];
  const [logDecays, timeBiases] = [memory.floats(logDecay), memory.floats(timeBias)];
  for (let i = 0; i < gs.length; i++) {
    const h = i % heads;
    gs[i] = -Math.exp(logDecays[h]!) * softplus(as[i]! + timeBiases[h]!);
    betas[i] = sigmoid(bs[i]!);
  }
}

function deltaGatesBackward(memory: ReferenceMemory, operands: Operands<"deltaGatesBackward">): void {
  const { a, b, logDecay, timeBias, dg, dBeta, da, db, dLogDecay, dTimeBias } = operands;
  const heads = logDecay.shape[0]!;
  const [as, bs, dgs, dBetas] = [memory.floats(a), memory.floats(b), memory.floats(dg), memory.floats(dBeta)];
  const [das, dbs] = [memory.floats(da), memory.floats(db)];
  const [logDecays, timeBiases] = [memory.floats(logDecay), memory.floats(timeBias)];
  const [decaySums, biasSums] = [new Float64Array(heads), new Float64Array(heads)];
  for (let i = 0; i < das.length; i++) {
    const h = i % heads;
    const x = as[i]! + timeBiases[h]!;
    const rate = -Math.exp(logDecays[h]!);
    const slope = dgs[i]! * rate * (x > 20 ? 1 : sigmoid(x));
    const s = sigmoid(bs[i]!);
    decaySums[h]! += dgs[i]! * rate * softplus(x);
    biasSums[h]! += slope;
    das[i] = slope;
    dbs[i] = dBetas[i]! * s * (1 - s);
  }
  if (dLogDecay) addTo(memory.floats(dLogDecay), decaySums);
  if (dTimeBias) addTo(memory.floats(dTimeBias), biasSums);
}

/** Where heads lie in rows of qkv, and their sizes. */
function layoutOf({ qkv, g, kHeads, keyWidth }: Operands<"gatedDeltaRuleBackward">, valueWidth: number) {
  const channels = qkv.shape[1]!;
  const vHeads = g.shape[1]!;
  return {
    ...{ channels, vHeads, kHeads, keyWidth, valueWidth },
    keyHead: (h: number) => Math.floor((h * kHeads) / vHeads),
    q: (t: number, head: number) => t * channels + head * keyWidth,
    k: (t: number, head: number) => t * channels + (kHeads + head) * keyWidth,
    v: (t: number, h: number) => t * channels + 2 * kHeads * keyWidth + h * valueWidth,
  };
}

function unit(x: ArrayLike<number>, start: number, width: number, epsilon: number, factor: number) {
  let squares = epsilon;
  for (let i = 0; i < width; i++) squares += x[start + i]! ** 2;
  const inverse = 1 / Math.sqrt(squares);
  return {
    inverse,
    values: Float64Array.from({ length: width }, (_, i) => x[start + i]! * inverse * factor),
  };
}

/** S decays, then learns what it got wrong of v, in place; the error v - S^T k before it is learnt. */
function stepState(
  s: Float64Array,
  k: Float64Array,
  v: (j: number) => number,
  decay: number,
  beta: number,
  valueWidth: number,
): Float64Array {
  const error = Float64Array.from({ length: valueWidth }, (_, j) => v(j));
  for (let i = 0; i < s.length; i++) s[i]! *= decay;
  for (const [i, key] of k.entries())
    for (let j = 0; j < valueWidth; j++) error[j]! -= key * s[i * valueWidth + j]!;
  for (const [i, key] of k.entries())
    for (let j = 0; j < valueWidth; j++) s[i * valueWidth + j]! += key * beta * error[j]!;
  return error;
}

function gatedDeltaRule(memory: ReferenceMemory, operands: Operands<"gatedDeltaRule">): void {
  const { qkv, g, beta, segments, scale, epsilon, state, out } = operands;
  const width = out.shape[2]!;
  const layout = layoutOf({ ...operands, dOut: out, dqkv: qkv, dg: g, dBeta: beta }, width);
  const { vHeads, keyWidth } = layout;
  const [xs, gs, betas, outs] = [
    memory.floats(qkv),
    memory.floats(g),
    memory.floats(beta),
    memory.floats(out),
  ];
  const states = state && memory.floats(state);
  for (const { start, length, slot, continues } of stretches(memory, segments)) {
    for (let h = 0; h < vHeads; h++) {
      const size = keyWidth * width;
      const held = (slot * vHeads + h) * size;
      const s = new Float64Array(size);
      if (states && continues) s.set(states.subarray(held, held + size));
      for (let t = start; t < start + length; t++) {
        const head = layout.keyHead(h);
        const q = unit(xs, layout.q(t, head), keyWidth, epsilon, scale).values;
        const k = unit(xs, layout.k(t, head), keyWidth, epsilon, 1).values;
        const v = layout.v(t, h);
        stepState(s, k, (j) => xs[v + j]!, Math.exp(gs[t * vHeads + h]!), betas[t * vHeads + h]!, width);
        for (let j = 0; j < width; j++) {
          let sum = 0;
          for (let i = 0; i < keyWidth; i++) sum += q[i]! * s[i * width + j]!;
          outs[(t * vHeads + h) * width + j] = sum;
        }
      }
      states?.set(s, held);
    }
  }
}

function gatedDeltaRuleBackward(memory: ReferenceMemory, operands: Operands<"gatedDeltaRuleBackward">): void {
  const { qkv, g, beta, segments, scale, epsilon, dOut, dqkv, dg, dBeta } = operands;
  const width = dOut.shape[2]!;
  const layout = layoutOf(operands, width);
  const { vHeads, kHeads, keyWidth } = layout;
  const [xs, gs, betas, dOuts] = [qkv, g, beta, dOut].map((t) => memory.floats(t)) as Float64Array[];
  const grads = new Float64Array(xs!.length);
  const [dgs, dBetas] = [memory.floats(dg), memory.floats(dBeta)];
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  for (const { start, length } of stretches(memory, segments)) {
    for (let h = 0; h < vHeads; h++) {
      const head = layout.keyHead(h);
      const keyOf = (t: number) => unit(xs!, layout.k(t, head), keyWidth, epsilon, 1).values;
      // S before each token, and each token's error.
      const before: Float64Array[] = [];
      const errors: Float64Array[] = [];
      const s = new Float64Array(keyWidth * width);
      for (let t = start; t < start + length; t++) {
        before.push(s.slice());
        const v = layout.v(t, h);
        errors.push(
          stepState(
            s,
            keyOf(t),
            (j) => xs![v + j]!,
            Math.exp(gs![t * vHeads + h]!),
            betas![t * vHeads + h]!,
            width,
          ),
        );
      }
      const dS = new Float64Array(keyWidth * width);
      for (let t = start + length - 1; t >= start; t--) {
        const gate = t * vHeads + h;
        const [decay, b] = [Math.exp(gs![gate]!), betas![gate]!];
        const decayed = before[t - start]!.map((value) => value * decay);
        const error = errors[t - start]!;
        const q = unit(xs!, layout.q(t, head), keyWidth, epsilon, scale).values;
        const k = keyOf(t);
        const dO = dOuts!.subarray((t * vHeads + h) * width, (t * vHeads + h + 1) * width);
        const v = layout.v(t, h);
        const dU = new Float64Array(width);
        for (let i = 0; i < keyWidth; i++) {
          for (let j = 0; j < width; j++) {
            const at = i * width + j;
            dS[at]! += q[i]! * dO[j]!;
            dU[j]! += dS[at]! * k[i]!;
            grads[layout.q(t, head) + i]! += (decayed[at]! + k[i]! * b * error[j]!) * dO[j]!;
          }
        }
        dBetas[gate] = dot(dU, error);
        for (let j = 0; j < width; j++) grads[v + j] = b * dU[j]!;
        for (let i = 0; i < keyWidth; i++) {
          for (let j = 0; j < width; j++) {
            const at = i * width + j;
            grads[layout.k(t, head) + i]! += dS[at]! * b * error[j]! - decayed[at]! * b * dU[j]!;
            dS[at]! -= k[i]! * b * dU[j]!;
          }
        }
        dgs[gate] = dot(dS, decayed);
        for (let i = 0; i < dS.length; i++) dS[i]! *= decay;
      }
    }
    // From the unit vectors to what they were made of.
    for (let t = start; t < start + length; t++) {
      for (let head = 0; head < kHeads; head++) {
        for (const [at, factor] of [
          [layout.q(t, head), scale],
          [layout.k(t, head), 1],
        ] as const) {
          const { inverse, values } = unit(xs!, at, keyWidth, epsilon, 1);
          const along = dot(values, grads.subarray(at, at + keyWidth));
          for (let i = 0; i < keyWidth; i++)
            grads[at + i] = factor * inverse * (grads[at + i]! - values[i]! * along);
        }
      }
    }
  }
  memory.floats(dqkv).set(grads);
}

export function recurrentKernels(memory: ReferenceMemory) {
  return {
    causalConv1d: (operands) => causalConv1d(memory, operands),
    causalConv1dBackward: (operands) => causalConv1dBackward(memory, operands),
    deltaGates: (operands) => deltaGates(memory, operands),
    deltaGatesBackward: (operands) => deltaGatesBackward(memory, operands),
    gatedDeltaRule: (operands) => gatedDeltaRule(memory, operands),
    gatedDeltaRuleBackward: (operands) => gatedDeltaRuleBackward(memory, operands),
  } satisfies Partial<ContractKernels>;
}
