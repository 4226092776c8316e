// Reference kernels that work element by element or row by row: norms, rotary embedding, gated activations,
// cross-entropy. Formulas carry their sources in contract/.

import type { ActivationKind, ContractKernels, Operands } from "../contract.ts";
import type { ReferenceMemory } from "./memory.ts";

function rmsNorm(memory: ReferenceMemory, { x, w, shift, epsilon, y, rstd }: Operands<"rmsNorm">): void {
  const width = x.shape.at(-1)!;
  const [xs, ws, ys, rs] = [memory.floats(x), memory.floats(w), memory.floats(y), memory.floats(rstd)];
  for (let row = 0; row < xs.length / width; row++) {
    let squares = 0;
    for (let c = 0; c < width; c++) squares += xs[row * width + c]! ** 2;
    const r = 1 / Math.sqrt(squares / width + epsilon);
    rs[row] = r;
    for (let c = 0; c < width; c++) ys[row * width + c] = xs[row * width + c]! * r * (shift + ws[c]!);
  }
}

/** With v = shift + w: dx_c = r * v_c dy_c - x_c r^3 / C * sum_j(x_j v_j dy_j). */
function rmsNormBackward(
  memory: ReferenceMemory,
  { x, w, shift, rstd, dy, dx, accumulate, dw }: Operands<"rmsNormBackward">,
): void {
  const width = x.shape.at(-1)!;
  const [xs, ws, rs, dys] = [memory.floats(x), memory.floats(w), memory.floats(rstd), memory.floats(dy)];
  const dxs = dx && memory.floats(dx);
  const dwSums = dw && Float64Array.from(memory.floats(dw));
  for (let row = 0; row < xs.length / width; row++) {
    const r = rs[row]!;
    const start = row * width;
    let projection = 0;
    for (let c = 0; c < width; c++) projection += xs[start + c]! * (shift + ws[c]!) * dys[start + c]!;
    for (let c = 0; c < width; c++) {
      const grad = r * (shift + ws[c]!) * dys[start + c]! - (xs[start + c]! * r ** 3 * projection) / width;
      if (dxs) dxs[start + c] = (accumulate ? dxs[start + c]! : 0) + grad;
      if (dwSums) dwSums[c]! += dys[start + c]! * xs[start + c]! * r;
    }
  }
  if (dw && dwSums) memory.floats(dw).set(dwSums);
}

function rope(memory: ReferenceMemory, { x, positions, cos, sin, direction, y }: Operands<"rope">): void {
  const [tokens, heads, width] = x.shape as [number, number, number];
  const half = cos.shape[1]!;
  const [xs, ys, cosines, sines] = [
    memory.floats(x),
    memory.floats(y),
    memory.floats(cos),
    memory.floats(sin),
  ];
  const ps = memory.ints(positions);
  for (let t = 0; t < tokens; t++) {
    for (let h = 0; h < heads; h++) {
      const row = (t * heads + h) * width;
      for (let i = 0; i < half; i++) {
        const c = cosines[ps[t]! * half + i]!;
        const s = direction * sines[ps[t]! * half + i]!;
        const low = xs[row + i]!;
        const high = xs[row + half + i]!;
        ys[row + i] = low * c - high * s;
        ys[row + half + i] = high * c + low * s;
      }
      for (let i = 2 * half; i < width; i++) ys[row + i] = xs[row + i]!;
    }
  }
}

/** Value and derivative of an activation. */
export function activate(kind: ActivationKind, x: number): [number, number] {
  if (kind === "identity") return [x, 1];
  if (kind === "sigmoid") {
    const s = 1 / (1 + Math.exp(-x));
    return [s, s * (1 - s)];
  }
  if (kind === "silu") {
    const s = 1 / (1 + Math.exp(-x));
    return [x * s, s * (1 + x * (1 - s))];
  }
  if (kind === "geluTanh") {
    const c = Math.sqrt(2 / Math.PI);
    const t = Math.tanh(c * (x + 0.044715 * x ** 3));
    return [0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)];
  }
  const cdf = 0.5 * erfc(-x / Math.SQRT2);
  return [x * cdf, cdf + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI)];
}

/** Complementary error function: Taylor series near zero, continued fraction beyond; relative error near 1e-15. */
export function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x);
  if (x < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 120 && Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum;
  }
  if (x > 27) return 0;
  let fraction = 0;
  for (let k = 60; k > 0; k--) fraction = k / 2 / (x + fraction);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}

function gatedActivation(
  memory: ReferenceMemory,
  { activation, gate, up, y }: Operands<"gatedActivation">,
): void {
  const [gs, us, ys] = [memory.floats(gate), memory.floats(up), memory.floats(y)];
  for (let i = 0; i < ys.length; i++) ys[i] = activate(activation, gs[i]!)[0] * us[i]!;
}

function gatedActivationBackward(
  memory: ReferenceMemory,
  { activation, gate, up, dy, dGate, dUp }: Operands<"gatedActivationBackward">,
): void {
  const [gs, us, dys, dgs, dus] = [gate, up, dy, dGate, dUp].map((t) => memory.floats(t)) as Float64Array[];
  for (let i = 0; i < gs!.length; i++) {
    const [value, slope] = activate(activation, gs![i]!);
    const upstream = dys![i]!;
    const u = us![i]!;
    dgs![i] = upstream * u * slope;
    dus![i] = upstream * value;
  }
}

function crossEntropy(
  memory: ReferenceMemory,
  { logits, targets, loss, dLogits, gradScale }: Operands<"crossEntropy">,
): void {
  const [count, vocabulary] = logits.shape as [number, number];
  const [values, losses, ts] = [memory.floats(logits), memory.floats(loss), memory.ints(targets)];
  const grads = dLogits && memory.floats(dLogits);
  for (let i = 0; i < count; i++) {
    const start = i * vocabulary;
    let max = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < vocabulary; j++) max = Math.max(max, values[start + j]!);
    let total = 0;
    for (let j = 0; j < vocabulary; j++) total += Math.exp(values[start + j]! - max);
    const logSum = max + Math.log(total);
    losses[i] = logSum - values[start + ts[i]!]!;
    if (!grads) continue;
    for (let j = 0; j < vocabulary; j++) {
      const probability = Math.exp(values[start + j]! - logSum);
      grads[start + j] = (probability - (j === ts[i] ? 1 : 0)) * gradScale;
    }
  }
}

export function elementwiseKernels(memory: ReferenceMemory) {
  return {
    rmsNorm: (operands) => rmsNorm(memory, operands),
    rmsNormBackward: (operands) => rmsNormBackward(memory, operands),
    rope: (operands) => rope(memory, operands),
    gatedActivation: (operands) => gatedActivation(memory, operands),
    gatedActivationBackward: (operands) => gatedActivationBackward(memory, operands),
    softCap({ x, cap, y }) {
      const [xs, ys] = [memory.floats(x), memory.floats(y)];
      for (let i = 0; i < ys.length; i++) ys[i] = cap * Math.tanh(xs[i]! / cap);
    },
    softCapBackward({ y, cap, dy, dx }) {
      const [ys, dys, dxs] = [memory.floats(y), memory.floats(dy), memory.floats(dx)];
      for (let i = 0; i < dxs.length; i++) dxs[i] = dys[i]! * (1 - (ys[i]! / cap) ** 2);
    },
    crossEntropy: (operands) => crossEntropy(memory, operands),
  } satisfies Partial<ContractKernels>;
}
