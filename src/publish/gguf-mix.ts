// Which type each tensor of a GGUF file has, by the type that the file is named after: the choices of llama.cpp's
// quantize, so that a Q4_K_M file of ours and one of its are the same (src/llama-quant.cpp). Vectors, norms, routers and
// kernels stay as they are.

import type { GgufTensorType } from "../formats/gguf.ts";
import { type BlockTypeName, blockTypeOf } from "../quant/ggml/index.ts";

/** What a file can be named after: llama.cpp's number of it, and the type that most of its tensors have. */
export const fileTypes = {
  f32: { id: 0, of: "f32" },
  f16: { id: 1, of: "f16" },
  bf16: { id: 32, of: "bf16" },
  q8_0: { id: 7, of: "q8_0" },
  q4_0: { id: 2, of: "q4_0" },
  q4_1: { id: 3, of: "q4_1" },
  q5_0: { id: 8, of: "q5_0" },
  q5_1: { id: 9, of: "q5_1" },
  q4_k_s: { id: 14, of: "q4_k" },
  q4_k_m: { id: 15, of: "q4_k" },
  q5_k_s: { id: 16, of: "q5_k" },
  q5_k_m: { id: 17, of: "q5_k" },
  q6_k: { id: 18, of: "q6_k" },
} as const satisfies Record<string, { readonly id: number; readonly of: GgufTensorType }>;

export type GgufFileType = keyof typeof fileTypes;

export interface TensorToType {
  readonly name: string;
  /** Row-major. */
  readonly shape: readonly number[];
  /** Whether llama.cpp's quantize would touch it; else it is f32. */
  readonly quantizable: boolean;
}

export interface MixedModel {
  /** Layers as the file counts them. */
  readonly layers: number;
  /** Experts of a layer; 1 where there is no mixture. */
  readonly experts: number;
  /** Of llama and qwen2 with 80 layers, where eight heads share a value matrix: those get more bits. */
  readonly sharesValues: boolean;
  /** Weighed by an importance matrix. */
  readonly hasImportance: boolean;
}

type Category = "output" | "embedding" | "v" | "k" | "attentionOutput" | "down" | "other";

function categoryOf(name: string, tied: boolean): Category {
  if (name === "output.weight") return "output";
  if (name === "token_embd.weight" || name === "per_layer_token_embd.weight")
    return tied ? "output" : "embedding";
  if (name.includes("attn_qkv.weight") || name.includes("attn_kv_b.weight") || name.includes("attn_v.weight"))
    return "v";
  if (name.includes("attn_k.weight")) return "k";
  if (name.includes("attn_output.weight")) return "attentionOutput";
  return name.includes("ffn_down") ? "down" : "other";
}

/** The first and last eighth of the layers, and every third between. */
function takesMoreBits(layer: number, layers: number): boolean {
  const eighth = Math.trunc(layers / 8);
  return layer < eighth || layer >= Math.trunc((7 * layers) / 8) || (layer - eighth) % 3 === 2;
}

/** Types of tensors, in their order, which is that of the layers. */
export function mixedTypes(
  file: GgufFileType,
  tensors: readonly TensorToType[],
  model: MixedModel,
): GgufTensorType[] {
  const usual = fileTypes[file].of;
  const { experts, layers } = model;
  const tied = !tensors.some(({ name }) => name === "output.weight");
  const categories = tensors.map(({ name }) => categoryOf(name, tied));
  const valueLayers = categories.filter((category) => category === "v").length;
  let values = 0;
  let downs = 0;
  const isMedium = file === "q4_k_m" || file === "q5_k_m";
  const choose = ({ name, shape }: TensorToType, category: Category): GgufTensorType => {
    const width = shape.at(-1)!;
    const layer = Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? 0);
    switch (category) {
      case "output":
        if (width % (blockTypeOf(usual)?.block ?? 1) !== 0 || usual === "q8_0") return "q8_0";
        return "q6_k";
      case "v": {
        const index = values++;
        if (experts === 8) return "q8_0";
        if (isMedium && takesMoreBits(index, valueLayers)) return "q6_k";
        if (file === "q4_k_s" && index < 4) return "q5_k";
        return model.sharesValues && usual === "q4_k" ? "q5_k" : usual;
      }
      case "k":
        return experts === 8 ? "q8_0" : usual;
      case "down": {
        const index = experts > 1 ? layer : downs;
        downs++;
        const isEarly = index < Math.trunc(layers / 8);
        if (isMedium && takesMoreBits(index, layers)) return "q6_k";
        if (file === "q4_k_s" && isEarly) return "q5_k";
        if (model.hasImportance && isEarly && file === "q4_0") return "q4_1";
        return model.hasImportance && isEarly && file === "q5_0" ? "q5_1" : usual;
      }
      case "attentionOutput":
        return experts === 8 && usual === "q4_k" ? "q5_k" : usual;
      default:
        return usual;
    }
  };
  return tensors.map((tensor, i) => {
    if (!tensor.quantizable) return "f32";
    return blockTypeOf(usual) ? fitting(choose(tensor, categories[i]!), tensor.shape.at(-1)!) : usual;
  });
}

/** What rows that do not divide into a type's blocks have in its place. */
const inPlaceOf: Partial<Record<BlockTypeName, BlockTypeName>> = { q4_k: "q5_0", q5_k: "q5_1", q6_k: "q8_0" };

function fitting(type: GgufTensorType, width: number): GgufTensorType {
  const coded = blockTypeOf(type);
  if (!coded || width % coded.block === 0) return type;
  const other = inPlaceOf[type as BlockTypeName];
  return other && width % blockTypeOf(other)!.block === 0 ? other : "f16";
}
