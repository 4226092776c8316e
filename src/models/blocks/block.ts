// One layer of a decoder: a mixer and an MLP around the residual stream, with norms before them, after them, or both. Its
// weights in order, the layer made of them, and its pass. Not here: what mixers and MLPs do (their files beside this one).

import type { GroupedSpec } from "../../autograd/ops/experts.ts";
import { addScaled, scaled } from "../../autograd/ops/layers.ts";
import type { LinearWeight } from "../../autograd/ops/linear.ts";
import type { Parameter, Value } from "../../autograd/tape.ts";
import type { Adaptable } from "../../nn/module.ts";
import { invariant } from "../../util/errors.ts";
import type { DecoderConfig, LayerConfig } from "../decoder-config.ts";
import type { HostRows } from "../host-rows.ts";
import { type BlockPass, norm } from "../pass.ts";
import {
  type BlockPart,
  type BlockWeight,
  normWeight,
  type PartsOf,
  type WeightTable,
} from "./block-part.ts";
import { mixerOf, mlpOf } from "./index.ts";
import { perLayerWeights, takeIn } from "./per-layer-input.ts";

/** Weights by checkpoint name: matrices frozen or trained, vectors and the embedding as parameters. */
export interface DecoderWeights {
  linear(name: string): LinearWeight;
  experts(name: string): GroupedSpec["weight"];
  parameter(name: string): Parameter;
  /** The number of a weight that never trains. */
  constant(name: string): number;
  /** A table that stays in the host's memory; undefined where it is on the device. */
  hostRows(name: string): HostRows | undefined;
}

const width = (config: DecoderConfig) => config.width;
const before = ({ norms }: DecoderConfig) => norms !== "post";
const after = ({ norms }: DecoderConfig) => norms !== "pre";

/** Names are those of norms before alone; configurations of other arrangements give theirs. */
const norms = {
  attentionNorm: { ...normWeight("input_layernorm", "attn_norm", width), present: before },
  attentionPostNorm: { ...normWeight("", "post_attention_norm", width), present: after },
  mlpNorm: { ...normWeight("post_attention_layernorm", "ffn_norm", width), present: before },
  mlpPostNorm: { ...normWeight("", "post_ffw_norm", width), present: after },
} as const satisfies WeightTable;

const scalar = {
  path: "layer_scalar",
  ...{ gguf: "layer_output_scale.weight", kind: "vector", shape: () => [1] },
  ...{ present: (config) => config.layerScalars, bare: true, shared: true, constant: true },
} as const satisfies BlockWeight;

/** A weight of a layer with the name of its part. */
export type NamedPart = readonly [part: string, weight: BlockWeight];

/** The weights of a layer, in the order of a pass. */
export function blockWeights(config: DecoderConfig, layer: LayerConfig): NamedPart[] {
  const { attentionNorm, attentionPostNorm, mlpNorm, mlpPostNorm } = norms;
  const all = {
    ...{ attentionNorm, ...mixerOf(layer).weights, attentionPostNorm },
    ...{ mlpNorm, ...mlpOf(layer).weights, mlpPostNorm },
    ...{ ...perLayerWeights, scalar },
  };
  return Object.entries<BlockWeight>(all).filter(([, { present }]) => present?.(config, layer) ?? true);
}

/** A weight's path in a checkpoint, without ".weight". */
export function blockPath(config: DecoderConfig, index: number, [part, weight]: NamedPart): string {
  return `model.layers.${index}.${config.paths[part] ?? weight.path}`;
}

type Parts = Record<string, Adaptable | Parameter | undefined>;

export interface Block {
  readonly index: number;
  readonly layer: LayerConfig;
  /** By part; a vector may be replaced by another parameter. */
  readonly parts: Parts;
  /** Multiplies the stream behind it. */
  readonly scalar: number;
}

export function isLayer(part: Adaptable | Parameter): part is Adaptable {
  return "weight" in part;
}

export function makeBlock(config: DecoderConfig, weights: DecoderWeights, index: number): Block {
  const layer = config.layers[index];
  invariant(layer, `a decoder of ${config.layers.length} layers has no layer ${index}`);
  const parts: Parts = {};
  let streamScale = 1;
  for (const named of blockWeights(config, layer)) {
    const [part, { kind, shape, bias, bare }] = named;
    const name = blockPath(config, index, named);
    if (kind === "vector") {
      parts[part] = weights.parameter(bare ? name : `${name}.weight`);
      if (part === "scalar") streamScale = weights.constant(name);
      continue;
    }
    const [outputs, inputs] = shape(config, layer).slice(-2) as [number, number];
    const own = bias?.(config, layer) ? weights.parameter(`${name}.bias`) : undefined;
    const common = { name, inputs, outputs, bias: own };
    parts[part] =
      kind === "experts"
        ? { ...common, experts: shape(config, layer)[0]!, weight: weights.experts(`${name}.weight`) }
        : { ...common, weight: weights.linear(`${name}.weight`) };
  }
  return { index, layer, parts, scalar: streamScale };
}

/** The stream after the block, [T, C]. */
export function runBlock(pass: Omit<BlockPass, "index" | "layer" | "stream">, x: Value, block: Block): Value {
  const own = { ...pass, index: block.index, layer: block.layer };
  const { attentionNorm, attentionPostNorm, mlpNorm, mlpPostNorm } = block.parts as PartsOf<typeof norms>;
  const middle = around(own, x, mixerOf(block.layer), block, attentionNorm, attentionPostNorm);
  const behind = around(own, middle, mlpOf(block.layer), block, mlpNorm, mlpPostNorm);
  const whole = takeIn(own, behind, block.parts as PartsOf<typeof perLayerWeights>);
  return block.scalar === 1 ? whole : scaled(pass.tape, whole, block.scalar);
}

/** x + what a part makes of it. */
function around(
  pass: Omit<BlockPass, "stream">,
  x: Value,
  part: BlockPart,
  { parts }: Block,
  normBefore: Parameter | undefined,
  normAfter: Parameter | undefined,
): Value {
  const { residualScale } = pass.config;
  const input = normBefore ? norm(pass, x, normBefore) : x;
  const own = { ...pass, stream: x };
  const run = (residual?: Value) => part.run(own, input, parts as PartsOf<WeightTable>, residual);
  if (normAfter) {
    invariant(residualScale === 1, "a scaled residual beside a norm after the part");
    return norm(pass, run(), normAfter, x);
  }
  return residualScale === 1 ? run(x) : addScaled(pass.tape, x, run(), residualScale);
}
