// A mixture's router, the order of its tokens, the sum of its experts' answers and their activation: launches of
// router.wgsl and its kin. Products of experts: grouped.ts.

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import type { ActivationKind } from "../backend.ts";
import type { ContractKernels } from "../contract.ts";
import { f32, operand } from "./commands.ts";
import { activations, copyFloats } from "./elementwise.ts";
import { elementsPerGroup, type Gpu, plain, windows } from "./gpu.ts";

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

interface Kind {
  readonly activation: ActivationKind;
  readonly limit: number;
  readonly alpha: number;
}

function gated(gpu: Gpu, file: "forward" | "backward", kind: Kind, x: Tensor, y: Tensor): void {
  const [n, width] = y.shape as [number, number];
  const clamped = kind.limit > 0 ? 1 : 0;
  const constants = { ACTIVATION: activations[kind.activation], CLAMPED: clamped };
  const label = `expert-activation-${file} ${Object.values(constants)}`;
  const pipeline = gpu.pipelines.get(label, () => ({
    files: ["activation", "expert-activation", `expert-activation-${file}`],
    constants,
    offsetWords: 2,
  }));
  for (const { start, length } of windows(gpu, n, 8 * width)) {
    const part = [
      operand(x, 2 * start * width, 2 * length * width),
      operand(y, start * width, length * width),
    ];
    const params = [length * width, width, f32(kind.limit), f32(kind.alpha)];
    gpu.commands.launch(pipeline, part, params, Math.ceil((length * width) / elementsPerGroup));
  }
}

export function routerKernels(gpu: Gpu): RouterKernels {
  return {
    router({ logits, normalized, weights, chosen }) {
      const [tokens, experts] = logits.shape as [number, number];
      const NORMALIZED = normalized ? 1 : 0;
      const pipeline = gpu.pipelines.get(`router ${NORMALIZED}`, () => ({
        files: ["router"],
        constants: { NORMALIZED },
      }));
      const operands = [operand(logits), operand(weights), operand(chosen)];
      gpu.commands.launch(pipeline, operands, [tokens, experts, weights.shape[1]!], Math.ceil(tokens / 64));
    },
    routerBackward({ logits, normalized, weights, chosen, dWeights, dLogits }) {
      const [tokens, experts] = logits.shape as [number, number];
      const NORMALIZED = normalized ? 1 : 0;
      const pipeline = gpu.pipelines.get(`router-backward ${NORMALIZED}`, () => ({
        files: ["router-backward"],
        constants: { NORMALIZED },
      }));
      const operands = [logits, weights, chosen, dWeights, dLogits].map((tensor) => operand(tensor));
      gpu.commands.launch(pipeline, operands, [tokens, experts, weights.shape[1]!], Math.ceil(tokens / 64));
    },
    sortByExpert({ chosen, offsets, slots, tokens }) {
      const pipeline = gpu.pipelines.get("sort-by-expert", plain("sort-by-expert"));
      const operands = [chosen, offsets, slots, tokens].map((tensor) => operand(tensor));
      const params = [elementCount(chosen.shape), offsets.shape[0]! - 1, chosen.shape[1]!];
      gpu.commands.launch(pipeline, operands, params, 1);
    },
    combineExperts({ z, slots, weights, residual, y }) {
      const [tokens, k] = slots.shape as [number, number];
      const flags = { WEIGHTS: weights ? 1 : 0, RESIDUAL: residual ? 1 : 0 };
      const pipeline = gpu.pipelines.get(`combine-experts ${Object.values(flags)}`, () => ({
        files: ["combine-experts"],
        constants: flags,
      }));
      const { nothing } = gpu.commands;
      const optional = [weights, residual].map((tensor) => (tensor ? operand(tensor) : nothing));
      const operands = [operand(z), operand(slots), ...optional, operand(y)];
      gpu.commands.launch(pipeline, operands, [tokens, k, y.shape[1]!], tokens);
    },
    combineExpertsBackward({ dy, z, slots, weights, dz, dWeights }) {
      // The kernel works in place.
      if (z.buffer !== dz.buffer || z.byteOffset !== dz.byteOffset) copyFloats(gpu, z, dz);
      const pairs = elementCount(slots.shape);
      const pipeline = gpu.pipelines.get("combine-experts-backward", plain("combine-experts-backward"));
      const operands = [dy, slots, weights, dz, dWeights].map((tensor) => operand(tensor));
      gpu.commands.launch(pipeline, operands, [pairs, slots.shape[1]!, dy.shape[1]!], pairs);
    },
    expertActivation: ({ x, y, ...kind }) => gated(gpu, "forward", kind, x, y),
    expertActivationBackward({ x, dy, dx, ...kind }) {
      if (x.buffer !== dx.buffer || x.byteOffset !== dx.byteOffset) copyFloats(gpu, x, dx);
      gated(gpu, "backward", kind, dx, dy);
    },
  };
}
