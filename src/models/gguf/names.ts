// Our weight names as llama.cpp's, and the order in which it wants the rows of q and k. For the "llama" architecture it
// rotates neighbouring pairs of a head's elements, where transformers rotates element i with i + D/2, so the rows of
// each head are interleaved; Qwen's architectures rotate as transformers does and keep theirs.
// Names: llama.cpp, gguf-py/gguf/constants.py.

import { elementCount } from "../../tensor/tensor.ts";
import { BugError, UserError } from "../../util/errors.ts";
import type { Architecture, GgufArchitecture } from "../architecture.ts";
import type { DecoderConfig } from "../decoder-config.ts";
import { embeddingName, headName, perLayerNames, type WeightSpec } from "../decoder-weights.ts";
import { architectureOf, architectures } from "../index.ts";

/** UserError for an architecture, or a variant of one, that llama.cpp computes in another way. */
export function ggufArchitecture(config: DecoderConfig): GgufArchitecture {
  const architecture = architectureOf(config)?.gguf;
  if (architecture === undefined) {
    const supported = Object.values<Architecture>(architectures).flatMap((each) =>
      each.gguf ? [each.modelType] : [],
    );
    throw new UserError(
      `model_type "${config.modelType}" cannot be exported to GGUF; supported are ${supported.join(", ")}`,
    );
  }
  const { name, activations = ["silu"] } = architecture;
  if (!activations.includes(config.activation)) {
    throw new UserError(
      `this model's activation is ${config.activation}, and llama.cpp computes ${name} models with ${activations.join(" or ")} only`,
    );
  }
  return architecture;
}

/** model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight */
export function ggufName(config: DecoderConfig, { name, layer, part, gguf, bare }: WeightSpec): string {
  const kind = name.slice(name.lastIndexOf(".") + 1);
  const like = architectureOf(config)?.gguf;
  if (layer !== undefined) {
    const own = like?.parts?.[part!] ?? gguf;
    if (own) return `blk.${layer}.${bare ? own : `${own}.${kind}`}`;
  }
  const others: Readonly<Record<string, string>> = {
    [embeddingName]: "token_embd",
    [config.finalNorm]: like?.finalNorm ?? "output_norm",
    [headName]: "output",
    [perLayerNames.table]: "per_layer_token_embd",
    [perLayerNames.projection]: "per_layer_model_proj",
    [perLayerNames.norm]: "per_layer_proj_norm",
  };
  const other = others[name.slice(0, name.lastIndexOf("."))];
  if (!other) throw new BugError(`weight ${name} has no name in GGUF`);
  return `${other}.${kind}`;
}

/** First rows of this weight (or bias) that are interleaved, as heads of a width; none where rows stay as they are. */
export function interleavedRows(
  config: DecoderConfig,
  { layer, rotatedHeads = 0 }: WeightSpec,
): { readonly rows: number; readonly headWidth: number } {
  const turns = architectureOf(config)?.gguf?.interleaves && layer !== undefined;
  const headWidth = turns ? config.layers[layer]!.headWidth : 1;
  return { rows: turns ? rotatedHeads * headWidth : 0, headWidth };
}

/** A tensor of GGUF: rows of one of our weights, stretch after stretch. */
export interface GgufPiece {
  readonly name: string;
  readonly shape: readonly number[];
  /** Of all rows of the weight, whatever it is stacked of; of what has no rows, elements. */
  readonly rows: readonly { readonly begin: number; readonly end: number }[];
}

/** Numbers of a weight's row: of experts' matrices too, but 1 of what has no rows. */
export function rowWidth({ kind, name, shape }: WeightSpec): number {
  if (kind === "experts") return shape[2]!;
  return name.endsWith(".bias") ? 1 : elementCount(shape.slice(1));
}

/** The tensors of GGUF that a weight makes up. */
export function ggufPieces(config: DecoderConfig, spec: WeightSpec): GgufPiece[] {
  const { shape, part } = spec;
  const width = rowWidth(spec);
  const total = elementCount(shape) / width;
  const isStack = part === "gateUp" && config.layers[spec.layer!]!.mlp === "mixture";
  const splits = isStack || (part === "gateUp" && architectureOf(config)?.gguf?.splitsGateUp);
  if (!splits) {
    // Kernels of convolutions are matrices there.
    const plain = shape.filter((size, i) => i !== 1 || size > 1 || spec.kind === "experts");
    // A table of embeddings has there a row for each token, and no more.
    const rows = spec.onHost ? config.vocabularySize : plain[0]!;
    const end = spec.onHost ? rows : total;
    return [{ name: ggufName(config, spec), shape: [rows, ...plain.slice(1)], rows: [{ begin: 0, end }] }];
  }
  // Gates and then ups, once an expert.
  const experts = isStack ? shape[0]! : 1;
  const each = total / experts;
  const half = each / 2;
  return ["ffn_gate", "ffn_up"].map((gguf, i) => ({
    name: ggufName(config, { ...spec, gguf: isStack ? `${gguf}_exps` : gguf, part: "" }),
    shape: [...(isStack ? [experts] : []), half, ...(width > 1 || spec.kind === "experts" ? [width] : [])],
    rows: Array.from({ length: experts }, (_, e) => ({
      begin: e * each + i * half,
      end: e * each + (i + 1) * half,
    })),
  }));
}

/**
 * Interleaves the rows of whole heads: row i + j * D/2 of a head becomes row 2 i + j. Only the first `rows` are heads; the
 * rest stay. `width` is a row's length.
 */
export function interleaveRows(
  values: Float32Array,
  { rows: ofHeads, headWidth }: { readonly rows: number; readonly headWidth: number },
  width: number,
): Float32Array {
  const out = new Float32Array(values.length);
  const half = headWidth / 2;
  const rows = values.length / width;
  for (let row = 0; row < rows; row++) {
    const inHead = row % headWidth;
    const to = row < ofHeads ? row - inHead + 2 * (inHead % half) + Math.floor(inHead / half) : row;
    out.set(values.subarray(row * width, (row + 1) * width), to * width);
  }
  return out;
}
