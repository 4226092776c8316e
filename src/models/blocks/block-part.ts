// What a part of a block supplies: what mixes tokens (attention and its like), or what follows it (an MLP). Its weights
// stand in one table, once, with their names in checkpoints and in GGUF, shapes, kinds and when a model has them: specs
// (decoder-weights.ts), the block itself (block.ts) and exports (publish/models/gguf/names.ts) come from it. Registry: index.ts.

import type { Parameter, Value } from "../../autograd/tape.ts";
import type { ExpertLayer, Linear } from "../../nn/module.ts";
import type { DecoderConfig, LayerConfig } from "../decoder-config.ts";
import type { BlockPass } from "../pass.ts";

type Of<T> = (config: DecoderConfig, layer: LayerConfig) => T;

export interface BlockWeight {
  /** After model.layers.<i>. in a checkpoint, where the configuration's `paths` say nothing else. */
  readonly path: string;
  /** After blk.<i>. in GGUF, where the architecture says nothing else. */
  readonly gguf: string;
  /** "linear" weights [out, in] and "experts", one for each of a mixture's [E, out, in], can be adapted and quantised. */
  readonly kind: "linear" | "experts" | "vector";
  readonly shape: Of<readonly number[]>;
  /** Absent: never. */
  readonly bias?: Of<boolean>;
  /** Absent: always. */
  readonly present?: Of<boolean>;
  /** Heads that its first rows make up and the rotary embedding turns; absent: none. */
  readonly rotatedHeads?: Of<number>;
  /** It stays dense where others are quantised. */
  readonly dense?: true;
  /** A norm's weight, which the configuration's normShift is added to. */
  readonly shifted?: true;
  /** Its names, in GGUF too, have no ".weight" behind them. */
  readonly bare?: true;
  /** A number of the checkpoint that never trains; blocks have it as a number. */
  readonly constant?: true;
  /** One for all rows of a pass: requests cannot bring one of their own. */
  readonly shared?: true;
}

/** By part, in the order of a pass. */
export type WeightTable = Readonly<Record<string, BlockWeight>>;

type PartOf<W extends BlockWeight> = W["kind"] extends "linear"
  ? Linear
  : W["kind"] extends "experts"
    ? ExpertLayer
    : Parameter;

/** A table's weights as a block holds them; those that only some models have may be absent. */
export type PartsOf<T extends WeightTable> = {
  [P in keyof T as T[P] extends { readonly present: unknown } ? never : P]: PartOf<T[P]>;
} & {
  [P in keyof T as T[P] extends { readonly present: unknown } ? P : never]?: PartOf<T[P]>;
};

export interface BlockPart<T extends WeightTable = WeightTable> {
  readonly weights: T;
  /** x [T, C] to [T, C]; `residual` is added to the result. */
  run(pass: BlockPass, x: Value, parts: PartsOf<T>, residual?: Value): Value;
  /** Floats a token that a training pass keeps of it, its input and its result aside. */
  readonly activations: Of<number>;
}

/** A part whose table's types are checked against what it runs on. */
export function blockPart<const T extends WeightTable>(part: BlockPart<T>): BlockPart<T> {
  return part;
}

export function linear(path: string, gguf: string, outputs: Of<number>, inputs: Of<number>) {
  const shape: BlockWeight["shape"] = (config, layer) => [outputs(config, layer), inputs(config, layer)];
  return { path, gguf, kind: "linear", shape } as const;
}

export function experts(
  path: string,
  gguf: string,
  count: Of<number>,
  outputs: Of<number>,
  inputs: Of<number>,
) {
  const shape: BlockWeight["shape"] = (config, layer) => [
    count(config, layer),
    outputs(config, layer),
    inputs(config, layer),
  ];
  return { path, gguf, kind: "experts", shape } as const;
}

export function vector(path: string, gguf: string, size: Of<number>) {
  const shape: BlockWeight["shape"] = (config, layer) => [size(config, layer)];
  return { path, gguf, kind: "vector", shape } as const;
}

/** The weight of an RMSNorm. */
export function normWeight(path: string, gguf: string, size: Of<number>) {
  return { ...vector(path, gguf, size), shifted: true } as const;
}
