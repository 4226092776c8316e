// Reference kernels of a mixture's router, and the experts' activation. Formulas carry their sources in contract/.

import type { ContractKernels, Operands } from "../contract.ts";
import { activate } from "./elementwise.ts";
import type { Floats, ReferenceMemory } from "./memory.ts";

type RouterKernels = Pick<
  ContractKernels,
  | "router"
  | "routerBackward"
  | "sortByExpert"
  | "combineExperts"
  | "combineExpertsBackward"
  | "expertActivation"
  | "expertActivationBackward"
>;

function softmax(values: ArrayLike<number>): number[] {
  const list = Array.from(values);
  const largest = Math.max(...list);
  const exponentials = list.map((value) => Math.exp(value - largest));
  const total = exponentials.reduce((sum, value) => sum + value, 0);
  return exponentials.map((value) => value / total);
}

/** y and its slopes by gate and by up. */
function gated(
  { activation, limit, alpha }: Pick<Operands<"expertActivation">, "activation" | "limit" | "alpha">,
  gate: number,
  up: number,
): [number, number, number] {
  if (!(limit > 0)) {
    const [value, slope] = activate(activation, gate);
    return [value * up, slope * up, value];
  }
  const [g, u] = [Math.min(gate, limit), Math.max(-limit, Math.min(limit, up))];
  const s = 1 / (1 + Math.exp(-alpha * g));
  const byGate = gate > limit ? 0 : (u + 1) * (s + alpha * g * s * (1 - s));
  return [(u + 1) * g * s, byGate, Math.abs(up) > limit ? 0 : g * s];
}

export function routerKernels(memory: ReferenceMemory): RouterKernels {
  return {
    router({ logits, normalized, weights, chosen }) {
      const [tokens, experts] = logits.shape as [number, number];
      const k = weights.shape[1]!;
      const [xs, ws, cs] = [memory.floats(logits), memory.floats(weights), memory.ints(chosen)];
      for (let t = 0; t < tokens; t++) {
        const row = xs.slice(t * experts, (t + 1) * experts);
        const own = Array.from(row, (_, e) => e)
          .sort((a, b) => row[b]! - row[a]! || a - b)
          .slice(0, k);
        const parts = normalized ? softmax(own.map((e) => row[e]!)) : softmax(row);
        for (const [j, e] of own.entries()) {
          cs[t * k + j] = e;
          ws[t * k + j] = normalized ? parts[j]! : parts[e]!;
        }
      }
    },
    routerBackward({ logits, normalized, weights, chosen, dWeights, dLogits }) {
      const [tokens, experts] = logits.shape as [number, number];
      const k = weights.shape[1]!;
      const [xs, ws, ds] = [memory.floats(logits), memory.floats(weights), memory.floats(dWeights)];
      const [cs, out] = [memory.ints(chosen), memory.floats(dLogits)];
      for (let t = 0; t < tokens; t++) {
        let mean = 0;
        for (let p = t * k; p < (t + 1) * k; p++) mean += ws[p]! * ds[p]!;
        const all = normalized ? undefined : softmax(xs.slice(t * experts, (t + 1) * experts));
        for (let e = 0; e < experts; e++) out[t * experts + e] = all ? -mean * all[e]! : 0;
        for (let p = t * k; p < (t + 1) * k; p++) out[t * experts + cs[p]!] = ws[p]! * (ds[p]! - mean);
      }
    },
    sortByExpert({ chosen, offsets, slots, tokens }) {
      const k = chosen.shape[1]!;
      const [cs, bounds] = [memory.ints(chosen), memory.ints(offsets)];
      const [ss, ts] = [memory.ints(slots), memory.ints(tokens)];
      let slot = 0;
      for (let e = 0; e + 1 < bounds.length; e++) {
        bounds[e] = slot;
        for (let pair = 0; pair < cs.length; pair++) {
          if (cs[pair] !== e) continue;
          ts[slot] = Math.floor(pair / k);
          ss[pair] = slot++;
        }
      }
      bounds[bounds.length - 1] = slot;
    },
    combineExperts({ z, slots, weights, residual, y }) {
      const [tokens, k] = slots.shape as [number, number];
      const width = y.shape[1]!;
      const [zs, ss, ys] = [memory.floats(z), memory.ints(slots), memory.floats(y)];
      const [ws, rs] = [weights, residual].map((tensor) => tensor && memory.floats(tensor));
      for (let t = 0; t < tokens; t++) {
        for (let c = 0; c < width; c++) {
          let sum = rs?.[t * width + c] ?? 0;
          for (let p = t * k; p < (t + 1) * k; p++) sum += (ws?.[p] ?? 1) * zs[ss[p]! * width + c]!;
          ys[t * width + c] = sum;
        }
      }
    },
    combineExpertsBackward({ dy, z, slots, weights, dz, dWeights }) {
      const k = slots.shape[1]!;
      const width = dy.shape[1]!;
      const [dys, zs, dzs] = [dy, z, dz].map((tensor) => memory.floats(tensor)) as [Floats, Floats, Floats];
      const [ss, ws, dws] = [memory.ints(slots), memory.floats(weights), memory.floats(dWeights)];
      for (let pair = 0; pair < ss.length; pair++) {
        const [from, to] = [Math.floor(pair / k) * width, ss[pair]! * width];
        let sum = 0;
        for (let c = 0; c < width; c++) {
          sum += dys[from + c]! * zs[to + c]!;
          dzs[to + c] = ws[pair]! * dys[from + c]!;
        }
        dws[pair] = sum;
      }
    },
    expertActivation({ x, y, ...kind }) {
      const width = y.shape[1]!;
      const [xs, ys] = [memory.floats(x), memory.floats(y)];
      for (let i = 0; i < ys.length; i++) {
        const at = i + Math.floor(i / width) * width;
        ys[i] = gated(kind, xs[at]!, xs[at + width]!)[0];
      }
    },
    expertActivationBackward({ x, dy, dx, ...kind }) {
      const width = dy.shape[1]!;
      const [xs, dys, dxs] = [memory.floats(x), memory.floats(dy), memory.floats(dx)];
      for (let i = 0; i < dys.length; i++) {
        const at = i + Math.floor(i / width) * width;
        const [, byGate, byUp] = gated(kind, xs[at]!, xs[at + width]!);
        dxs[at] = dys[i]! * byGate;
        dxs[at + width] = dys[i]! * byUp;
      }
    },
  };
}
