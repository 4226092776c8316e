// Reference kernels of a few lines each: fills, casts, sums, rows gathered and scattered, embedding.

import { toBf16Bits } from "../../tensor/dtype.ts";
import { BugError } from "../../util/errors.ts";
import { philox } from "../../util/rng.ts";
import type { ContractKernels } from "../contract.ts";
import type { ReferenceMemory } from "./memory.ts";

type SimpleKernels = Pick<
  ContractKernels,
  | "fill"
  | "cast"
  | "addInPlace"
  | "scaleInPlace"
  | "fillUniform"
  | "gatherRows"
  | "scatterRows"
  | "sum"
  | "sumSquares"
  | "countNonFinite"
  | "embedding"
  | "embeddingBackward"
>;

export function simpleKernels(memory: ReferenceMemory): SimpleKernels {
  return {
    fill: ({ y, value }) => void memory.floats(y).fill(value),
    cast: ({ x, y }) => memory.store(memory.values(x), y),
    addInPlace({ x, y }) {
      const [xs, ys] = [memory.floats(x), memory.floats(y)];
      for (let i = 0; i < ys.length; i++) ys[i]! += xs[i]!;
    },
    scaleInPlace({ y, factor }) {
      const ys = memory.floats(y);
      for (let i = 0; i < ys.length; i++) ys[i]! *= factor;
    },
    fillUniform({ y, bound, seed, stream }) {
      const count = y.shape.reduce((a, b) => a * b, 1);
      const values = new Float32Array(count);
      const words = new Uint32Array(4);
      for (let i = 0; i < count; i++) {
        const block = Math.floor(i / 4);
        if (i % 4 === 0) {
          philox(
            block >>> 0,
            Math.floor(block / 2 ** 32),
            stream >>> 0,
            0,
            seed >>> 0,
            Math.floor(seed / 2 ** 32),
            words,
          );
        }
        values[i] = (words[i % 4]! / 2 ** 31 - 1) * bound;
      }
      if (y.dtype === "bf16") {
        const raw = memory.raw(y);
        const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
        for (let i = 0; i < count; i++) view.setUint16(2 * i, toBf16Bits(values[i]!), true);
      } else memory.store(values, y);
    },
    gatherRows({ x, index, y }) {
      const width = x.shape[1]!;
      const [xs, ys, is] = [memory.floats(x), memory.floats(y), memory.ints(index)];
      for (let i = 0; i < is.length; i++)
        ys.set(xs.subarray(is[i]! * width, (is[i]! + 1) * width), i * width);
    },
    scatterRows({ x, index, y }) {
      const width = x.shape[1]!;
      const [xs, ys, is] = [memory.floats(x), memory.floats(y), memory.ints(index)];
      for (let i = 0; i < is.length; i++) ys.set(xs.subarray(i * width, (i + 1) * width), is[i]! * width);
    },
    sum({ x, out }) {
      let total = 0;
      for (const value of memory.floats(x)) total += value;
      memory.floats(out)[0] = total;
    },
    sumSquares({ x, out }) {
      let total = 0;
      for (const value of memory.floats(x)) total += value * value;
      memory.floats(out)[0] = total;
    },
    countNonFinite({ x, out }) {
      let total = 0;
      for (const value of memory.values(x)) total += Number.isFinite(value) ? 0 : 1;
      memory.floats(out)[0] = total;
    },
    embedding({ ids, table, y }) {
      const width = table.shape[1]!;
      const [is, values, ys] = [memory.ints(ids), memory.values(table), memory.floats(y)];
      for (let t = 0; t < is.length; t++) {
        if (is[t]! < 0 || is[t]! >= table.shape[0]!)
          throw new BugError(`embedding: id ${is[t]} of ${table.shape[0]}`);
        ys.set(values.subarray(is[t]! * width, (is[t]! + 1) * width), t * width);
      }
    },
    embeddingBackward({ ids, dy, dTable }) {
      const width = dTable.shape[1]!;
      const [is, dys, grads] = [memory.ints(ids), memory.floats(dy), memory.floats(dTable)];
      for (let t = 0; t < is.length; t++) {
        for (let c = 0; c < width; c++) grads[is[t]! * width + c]! += dys[t * width + c]!;
      }
    },
  };
}
