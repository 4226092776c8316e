// Updates of parameters and what gates them: AdamW, AdamW on moments in 8 bits, Lion.

import { SMALLEST_SCALE } from "../../quant/codebook.ts";
import { elementCount } from "../../tensor/tensor.ts";
import { type ContractKernels, momentBlockSize, type Operands } from "../contract.ts";
import { f32, operand } from "./commands.ts";
import { forElements } from "./elementwise.ts";
import { type Gpu, plain, windows } from "./gpu.ts";

function clipFactor(gpu: Gpu, { sumSquares, losses, maxNorm, factor }: Operands<"clipFactor">): void {
  const pipeline = gpu.pipelines.get("clip-factor", plain("clip-factor"));
  const operands = [operand(sumSquares), operand(losses), operand(factor)];
  gpu.commands.launch(pipeline, operands, [elementCount(losses.shape), f32(maxNorm)], 1);
}

function adamw(gpu: Gpu, update: Operands<"adamw">): void {
  const { params, grads, m, v, learningRate, beta1, beta2, epsilon, weightDecay, step } = update;
  const { factor } = update;
  const [rate, root] = [learningRate / (1 - beta1 ** step), Math.sqrt(1 - beta2 ** step)];
  const numbers = [beta1, beta2, 1 - beta1, 1 - beta2, 1 - learningRate * weightDecay, rate, root, epsilon];
  forElements(
    gpu,
    "adamw",
    plain("adamw"),
    [grads, params, m, v],
    [factor ? 1 : 0, ...numbers.map(f32)],
    [factor ? operand(factor) : gpu.commands.nothing],
  );
}

function lion(gpu: Gpu, update: Operands<"lion">): void {
  const { params, grads, m, learningRate, beta1, beta2, weightDecay, factor } = update;
  const decay = 1 - learningRate * weightDecay;
  const numbers = [beta1, beta2, 1 - beta1, 1 - beta2, decay, learningRate];
  forElements(
    gpu,
    "lion",
    plain("lion"),
    [grads, params, m],
    [factor ? 1 : 0, ...numbers.map(f32)],
    [factor ? operand(factor) : gpu.commands.nothing],
  );
}

function adamw8bit(gpu: Gpu, update: Operands<"adamw8bit">): void {
  const { params, grads, mCodes, vCodes, mAbsmax, vAbsmax, mMap, vMap, factor } = update;
  const { learningRate, beta1, beta2, epsilon, weightDecay, step } = update;
  const pipeline = gpu.pipelines.get("adamw-8bit", () => ({
    files: ["multiply-high", "exact-float", "adamw-8bit"],
  }));
  const root = Math.sqrt(1 - beta2 ** step);
  const numbers = [
    beta1,
    beta2,
    1 - beta1,
    1 - beta2,
    1 - learningRate * weightDecay,
    (learningRate * root) / (1 - beta1 ** step),
    epsilon * root,
    SMALLEST_SCALE,
  ].map(f32);
  for (const { start, length } of windows(gpu, elementCount(params.shape), 4, momentBlockSize)) {
    const blocks = Math.ceil(length / momentBlockSize);
    const block0 = start / momentBlockSize;
    const operands = [
      operand(grads, start, length),
      factor ? operand(factor) : gpu.commands.nothing,
      operand(params, start, length),
      { ...operand(mCodes, start, length), unit: 4 },
      { ...operand(vCodes, start, length), unit: 4 },
      operand(mAbsmax, block0, blocks),
      operand(vAbsmax, block0, blocks),
      operand(mMap),
      operand(vMap),
    ];
    gpu.commands.launch(pipeline, operands, [length, factor ? 1 : 0, ...numbers], blocks);
  }
}

export function updateKernels(
  gpu: Gpu,
): Pick<ContractKernels, "clipFactor" | "adamw" | "adamw8bit" | "lion"> {
  return {
    clipFactor: (operands) => clipFactor(gpu, operands),
    adamw: (operands) => adamw(gpu, operands),
    adamw8bit: (operands) => adamw8bit(gpu, operands),
    lion: (operands) => lion(gpu, operands),
  };
}
