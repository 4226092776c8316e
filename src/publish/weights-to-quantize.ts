// Which weights of a model folder are brought to 4 bits, and which folders are refused: quantised already, incomplete, or of
// a form that bitsandbytes has none for. Not here: bringing them there (quantize-folder.ts).

import { bnbWeightNames, type StoredDType } from "../formats/bnb.ts";
import { parseQuantizationConfig } from "../formats/bnb-config.ts";
import { isBnbStack } from "../formats/bnb-experts.ts";
import type { ModelFolder } from "../formats/model-folder.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { weightSpecs } from "../models/decoder-weights.ts";
import { isQuantizable } from "../models/mixture-size.ts";
import { UserError } from "../util/errors.ts";

/** Dtypes of safetensors that such a weight may have: our name, and PyTorch's. */
export const denseDTypes = {
  F32: { ours: "f32", torch: "float32" },
  BF16: { ours: "bf16", torch: "bfloat16" },
  F16: { ours: "f16", torch: "float16" },
} as const satisfies Record<string, { ours: string; torch: StoredDType }>;

/** Names of the weights to quantise, each present, of the right shape and in a floating dtype. */
export function weightsToQuantize(
  folder: ModelFolder,
  config: DecoderConfig,
  withExperts: boolean,
): Set<string> {
  const stacks = [...(folder.stacks?.values() ?? [])];
  if (stacks.some((stack) => stack.form === "mxfp4")) {
    throw new UserError(
      `${folder.path}: the experts of this model are in 4 bits already (MXFP4), and config.json has one quantization_config: nothing opens MXFP4 experts beside bitsandbytes' weights. Train on this folder as it is: --method qlora leaves its experts as they are and brings all else to 4 bits as it loads`,
    );
  }
  if (
    parseQuantizationConfig(folder.config, `${folder.path}/config.json`) ||
    bnbWeightNames(folder).size > 0 ||
    stacks.some(isBnbStack)
  ) {
    throw new UserError(
      `${folder.path}: this model is quantised already; quantise the original, or train on this folder as it is with --method qlora`,
    );
  }
  if (withExperts && config.mixture?.files === "interleaved") {
    throw new UserError(
      `${folder.path}: bitsandbytes has no form for the experts of ${config.modelType}. --experts kept leaves them as they are and quantises all else; --method qlora brings them to 4 bits as they are loaded; the published weights (MXFP4) are in 4 bits and are read as they are`,
    );
  }
  const names = new Set<string>();
  for (const spec of weightSpecs(config)) {
    if (!isQuantizable(spec) || (spec.kind === "experts" && !withExperts)) continue;
    const entry = folder.tensors.get(spec.name);
    if (!entry) {
      throw new UserError(
        `${folder.path}: tensor "${spec.name}" is missing; config.json asks for it with shape [${spec.shape}]`,
      );
    }
    if (entry.shape.length !== spec.shape.length || entry.shape.some((size, i) => size !== spec.shape[i])) {
      throw new UserError(
        `${folder.path}: tensor "${spec.name}" has shape [${entry.shape}], but config.json makes it [${spec.shape}]`,
      );
    }
    if (!Object.hasOwn(denseDTypes, entry.dtype)) {
      throw new UserError(
        `${folder.path}: tensor "${spec.name}" has dtype ${entry.dtype}; expected F32, F16 or BF16`,
      );
    }
    names.add(spec.name);
  }
  return names;
}
