// What a run leaves behind: an adapter in PEFT layout, or for full fine-tuning a whole model folder in the base
// model's own dtypes, with its tokenizer beside it. Either carries the chat template and tokens that decided the text.

import type { Parameter } from "../autograd/tape.ts";
import { writeModelFolder } from "../formats/model-folder-writer.ts";
import { writeAdapter } from "../formats/peft.ts";
import { fromSafetensorsDType } from "../formats/safetensors.ts";
import { copySideFiles } from "../formats/side-files.ts";
import { storedName } from "../models/decoder-weights.ts";
import { otherTowers, withTieFlag } from "../models/folder-config.ts";
import { type StoredPart, storedParts } from "../models/stored-parts.ts";
import { moduleInWhole, withTextValues } from "../models/text-tower.ts";
import type { FlatParameters } from "../nn/parameters.ts";
import { writeTextBesideAdapter, writeTextIntoModel } from "../publish/text-files.ts";
import { type DType, encodeFrom } from "../tensor/dtype.ts";
import { BugError } from "../util/errors.ts";
import type { TrainableModel } from "./setup.ts";

export async function saveResult(
  trainable: Pick<TrainableModel, "model" | "parameters" | "adapter" | "added">,
  out: string,
): Promise<void> {
  const { model, adapter, parameters, added } = trainable;
  if (adapter) {
    const { tower } = model.config;
    await writeAdapter(out, adapter.config, await adapter.read(), {
      moduleName: (name) => moduleInWhole(tower, name),
    });
    await writeTextBesideAdapter(model.text, out);
    return;
  }
  const { folder } = model;
  const tensors = parameters.entries.flatMap((parameter) => {
    const stored = storedName(model.config, parameter.name, (name) => folder.tensors.has(name));
    const entry = folder.tensors.get(stored);
    const dtype = entry && fromSafetensorsDType(entry.dtype);
    if (!entry || !dtype) throw new BugError(`trained weight ${parameter.name} is not in the base model`);
    const { name, tensor } = parameter;
    return storedParts(folder, model.config, { name, shape: tensor.shape }).map((part) => ({
      ...{ name: part.name, dtype: entry.dtype, shape: part.shape },
      data: () => partOf(parameters, parameter, part, dtype),
    }));
  });
  const tied = withTieFlag(folder.config, model.config);
  const config = added ? withTextValues(tied, { vocab_size: model.config.vocabularySize }) : tied;
  await writeModelFolder(out, {
    config,
    configLike: folder.config,
    generationConfig: folder.generationConfig,
    tensors: [...tensors, ...otherTowers(folder, model.config)],
  });
  await copySideFiles(folder.path, out);
  await writeTextIntoModel(model.text, out);
}

/** The bytes of a part of a trained weight, piece by piece. */
async function* partOf(
  parameters: FlatParameters,
  parameter: Parameter,
  { pieces, arrange }: StoredPart,
  dtype: DType,
): AsyncGenerator<Uint8Array> {
  for (const { offset, count } of pieces) {
    const values = await parameters.read(parameter, "tensor", offset, count);
    yield encodeFrom(arrange ? arrange(values) : values, dtype);
  }
}
