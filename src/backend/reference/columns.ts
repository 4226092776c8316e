// Reference kernels by column, for adapters that scale a layer's outputs, and dropout by itself.

import { dropoutKeeps } from "../../util/rng.ts";
import type { ContractKernels } from "../contract.ts";
import type { ReferenceMemory } from "./memory.ts";

type ColumnKernels = Pick<
  ContractKernels,
  "dropout" | "scaleColumns" | "addColumnDots" | "magnitudeFactors" | "copyColumns"
>;

export function columnKernels(memory: ReferenceMemory): ColumnKernels {
  return {
    dropout({ x, p, seed, stream, y }) {
      const [xs, ys] = [memory.floats(x), memory.floats(y)];
      const keepScale = 1 / (1 - p);
      for (let i = 0; i < ys.length; i++) ys[i] = dropoutKeeps(p, seed, stream, i) ? xs[i]! * keepScale : 0;
    },
    scaleColumns({ x, factors, bias, residual, y }) {
      const [xs, ys] = [memory.floats(x), memory.floats(y)];
      const [fs, bs, rs] = [factors, bias, residual].map((tensor) => tensor && memory.floats(tensor));
      const width = y.shape[1]!;
      for (let i = 0; i < ys.length; i++) {
        ys[i] = xs[i]! * (fs?.[i % width] ?? 1) + (bs?.[i % width] ?? 0) + (rs?.[i] ?? 0);
      }
    },
    copyColumns({ x, from, y, to, count }) {
      const [xs, ys] = [memory.floats(x), memory.floats(y)];
      const [rows, width, target] = [x.shape[0]!, x.shape[1]!, y.shape[1]!];
      for (let t = 0; t < rows; t++)
        for (let i = 0; i < count; i++) ys[t * target + to + i] = xs[t * width + from + i]!;
    },
    addColumnDots({ x, y, divisor, out }) {
      const [xs, outs] = [memory.floats(x), memory.floats(out)];
      const [ys, ds] = [y, divisor].map((tensor) => tensor && memory.floats(tensor));
      const sums = new Float64Array(outs.length);
      for (let i = 0; i < xs.length; i++) sums[i % outs.length]! += xs[i]! * (ys?.[i] ?? 1);
      for (let o = 0; o < outs.length; o++) outs[o]! += sums[o]! / (ds?.[o] ?? 1);
    },
    magnitudeFactors({ magnitude, squares, b, bGram, wa, scale, factors, norms }) {
      const [outputs, rank] = b.shape as [number, number];
      const [ms, ss, bs] = [memory.floats(magnitude), memory.floats(squares), memory.floats(b)];
      const [gs, ws] = [memory.floats(bGram), memory.floats(wa)];
      const [fs, ns] = [memory.floats(factors), memory.floats(norms)];
      for (let o = 0; o < outputs; o++) {
        let sum = ss[o]!;
        for (let r = 0; r < rank; r++) {
          const slope = 2 * scale * ws[r * outputs + o]! + scale * scale * gs[o * rank + r]!;
          sum += slope * bs[o * rank + r]!;
        }
        const zero = !(sum > 0);
        ns[o] = zero ? 1 : Math.sqrt(sum);
        fs[o] = zero ? 0 : ms[o]! / Math.sqrt(sum);
      }
    },
  };
}
