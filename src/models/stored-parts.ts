// A weight as files of its architecture hold it: most are one tensor, experts are many, or one in another order. What
// merges and full fine-tuning write, so that transformers and others open it as they open the published model. Reading
// them is formats/expert-tensors.ts's.

import { biasToInterleaved, toInterleaved } from "../formats/expert-layout.ts";
import type { ModelFolder } from "../formats/model-folder.ts";
import type { DecoderConfig, MixtureConfig } from "./decoder-config.ts";
import type { WeightSpec } from "./decoder-weights.ts";

export interface StoredPart {
  readonly name: string;
  readonly shape: readonly number[];
  /** Stretches of the weight's elements that make it up, in order. */
  readonly pieces: readonly { readonly offset: number; readonly count: number }[];
  /** Brings a piece into the file's order; absent: it is. */
  arrange?(values: Float32Array): Float32Array;
}

const whole = (name: string, shape: readonly number[]): StoredPart => ({
  name,
  shape,
  pieces: [{ offset: 0, count: shape.reduce((product, size) => product * size, 1) }],
});

const eachExpert = ([experts, ...matrix]: readonly number[]): StoredPart["pieces"] => {
  const count = matrix.reduce((product, size) => product * size, 1);
  return Array.from({ length: experts! }, (_, e) => ({ offset: e * count, count }));
};

/** Tensors that a file of this architecture holds a weight in. */
export function storedParts(
  folder: Pick<ModelFolder, "storedName">,
  { mixture }: DecoderConfig,
  { name, shape }: Pick<WeightSpec, "name" | "shape">,
): StoredPart[] {
  const plain = [whole(folder.storedName(nameInFiles(name, mixture?.files)), shape)];
  const own = /^(.*)\.experts\.(gate_up_proj|down_proj)\.(weight|bias)$/.exec(name);
  if (!own || !mixture) return plain;
  const [, module, matrix, kind] = own;
  const paired = matrix === "gate_up_proj";
  if (mixture.files === "interleaved") {
    const stored = folder.storedName(`${module}.experts.${matrix}${kind === "bias" ? "_bias" : ""}`);
    if (kind === "bias") {
      const out = shape[1]!;
      const arrange = paired ? (values: Float32Array) => biasToInterleaved(values, out) : undefined;
      return [{ ...whole(stored, shape), arrange }];
    }
    const [experts, out, width] = shape as [number, number, number];
    return [
      {
        name: stored,
        shape: [experts, width, out],
        pieces: eachExpert(shape),
        arrange: (values) => toInterleaved(values, out, width, paired),
      },
    ];
  }
  if (mixture.files === "fused") {
    const stored = folder.storedName(`${module}.experts.${matrix}`);
    return [{ ...whole(stored, shape), pieces: eachExpert(shape) }];
  }
  const [experts, out, width] = shape as [number, number, number];
  const names = matrixNames[mixture.files][paired ? "gateUp" : "down"];
  const rows = out / names.length;
  const prefix = mixture.files === "w1" ? module!.replace(/\.mlp$/, ".block_sparse_moe") : module;
  return Array.from({ length: experts }, (_, e) =>
    names.map((part, i) => ({
      name: folder.storedName(`${prefix}.experts.${e}.${part}.weight`),
      shape: [rows, width],
      pieces: [{ offset: (e * out + i * rows) * width, count: rows * width }],
    })),
  ).flat();
}

const matrixNames = {
  gate_proj: { gateUp: ["gate_proj", "up_proj"], down: ["down_proj"] },
  w1: { gateUp: ["w1", "w3"], down: ["w2"] },
} as const;

/** Names that files have for single tensors of a mixture. */
function nameInFiles(name: string, files: MixtureConfig["files"] | undefined): string {
  if (files === "w1") return name.replace(/\.mlp\.gate\.weight$/, ".block_sparse_moe.gate.weight");
  return files === "interleaved" ? name.replace(/\.self_attn\.sinks\.weight$/, ".self_attn.sinks") : name;
}
