// Weights to 4 bits. Products with quantised weights are in products.ts, moments in 8 bits in updates.ts.

import { SMALLEST_SCALE } from "../../quant/codebook.ts";
import { dtypeBytes } from "../../tensor/dtype.ts";
import { elementCount } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { ContractKernels, Operands } from "../contract.ts";
import { f32, operand } from "./commands.ts";
import { kindOf } from "./elementwise.ts";
import { type Gpu, windows, withScratch } from "./gpu.ts";

function quantize4bit(gpu: Gpu, operands: Operands<"quantize4bit">): void {
  const { x, blockSize, codes, absmax } = operands;
  const [thresholds, codeByRank] = [Array.from(operands.thresholds), Array.from(operands.codeByRank)];
  const kind = kindOf(x.dtype);
  invariant(kind <= 2 && blockSize % 2 === 0, `quantize4bit of ${x.dtype} in blocks of ${blockSize}`);
  const files = ["float-bits", "multiply-high", "exact-float", "quantize-element"] as const;
  const constants = { KIND: kind };
  const scales = gpu.pipelines.get(`quantize-scales ${kind}`, () => ({
    files: [...files, "quantize-scales"],
    constants,
  }));
  const second = gpu.pipelines.get(`quantize-codes ${kind}`, () => ({
    files: [...files, "quantize-codes"],
    constants,
  }));
  const ranks = [0, 8].map(
    (from) => codeByRank.slice(from, from + 8).reduce((w, c, i) => w | (c << (4 * i)), 0) >>> 0,
  );
  const limits = [...thresholds.slice(0, 15), Number.MAX_VALUE].map(f32);
  // A window holds whole blocks and whole words of codes.
  for (const { start, length } of windows(gpu, elementCount(x.shape), dtypeBytes[x.dtype], 4 * blockSize)) {
    const blocks = Math.ceil(length / blockSize);
    withScratch(gpu, 4 * blocks, (memory) => {
      const inverse = { buffer: memory, byteOffset: 0, sizeBytes: 4 * blocks };
      const source = operand(x, start, length);
      const largest = operand(absmax, start / blockSize, blocks);
      const target = { ...operand(codes, start / 2, Math.ceil(length / 2)), unit: 4 };
      const smallest = f32(SMALLEST_SCALE);
      gpu.commands.launch(
        scales,
        [source, largest, inverse],
        [length, blockSize, blocks, smallest],
        Math.ceil(blocks / 64),
      );
      const params = [length, blockSize, ...ranks, ...limits];
      gpu.commands.launch(second, [source, largest, inverse, target], params, Math.ceil(length / 512));
    });
  }
}

export function quantizedKernels(gpu: Gpu): Pick<ContractKernels, "quantize4bit"> {
  return {
    quantize4bit: (operands) => quantize4bit(gpu, operands),
  };
}
