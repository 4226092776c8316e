// Our weight names as llama.cpp's, and the order in which it wants the rows of q and k. For the "llama" architecture it
// rotates neighbouring pairs of a head's elements, where transformers rotates element i with i + D/2, so the rows of
// each head are interleaved; Qwen's architectures rotate as transformers does and keep theirs.
// Names: llama.cpp, gguf-py/gguf/constants.py.

import { blockParts } from "../models/block-table.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { embeddingName, finalNormName, headName } from "../models/decoder-weights.ts";
import { architectureOf, architectures } from "../models/index.ts";
import { BugError, UserError } from "../util/errors.ts";

/** UserError for an architecture, or a variant of one, that llama.cpp computes in another way. */
export function ggufArchitecture(config: DecoderConfig): string {
  const architecture = architectureOf(config)?.gguf?.name;
  if (architecture === undefined) {
    const supported = Object.values(architectures).flatMap((each) => (each.gguf ? [each.modelType] : []));
    throw new UserError(
      `model_type "${config.modelType}" cannot be exported to GGUF; supported are ${supported.join(", ")}`,
    );
  }
  if (config.activation !== "silu") {
    throw new UserError(
      `this model's activation is ${config.activation}, and llama.cpp computes ${architecture} models with silu only`,
    );
  }
  return architecture;
}

const layerParts = new Map(blockParts.map(([, part]) => [part.path, part]));

const otherParts: Readonly<Record<string, string>> = {
  [embeddingName]: "token_embd",
  [finalNormName]: "output_norm",
  [headName]: "output",
};

/** model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight */
export function ggufName(name: string): string {
  const match = /^(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(name);
  const [, layer, part, kind] = match ?? [];
  const other = layer === undefined ? otherParts[part ?? ""] : layerParts.get(part ?? "")?.gguf;
  if (!other) throw new BugError(`weight ${name} has no name in GGUF`);
  return layer === undefined ? `${other}.${kind}` : `blk.${layer}.${other}.${kind}`;
}

/** Heads whose rows are interleaved in this weight (or bias); 0 where rows stay as they are. */
export function interleavedHeads(config: DecoderConfig, name: string): number {
  if (!architectureOf(config)?.gguf?.interleaves) return 0;
  const [, path] = /^model\.layers\.\d+\.(.+)\.\w+$/.exec(name) ?? [];
  return layerParts.get(path ?? "")?.rotatedHeads?.(config) ?? 0;
}

/** Interleaves the rows of whole heads: row i + j * D/2 of a head becomes row 2 i + j. `width` is a row's length. */
export function interleaveRows(values: Float32Array, headWidth: number, width: number): Float32Array {
  const out = new Float32Array(values.length);
  const half = headWidth / 2;
  const rows = values.length / width;
  for (let row = 0; row < rows; row++) {
    const inHead = row % headWidth;
    const to = row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
    out.set(values.subarray(row * width, (row + 1) * width), to * width);
  }
  return out;
}
