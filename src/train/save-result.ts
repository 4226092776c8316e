// What a run leaves behind: an adapter in PEFT layout, or for full fine-tuning a whole model folder in the base
// model's own dtypes, with its tokenizer beside it. Either carries the chat template and tokens that decided the text.

import { writeModelFolder } from "../formats/model-folder-writer.ts";
import { writeAdapter } from "../formats/peft.ts";
import { fromSafetensorsDType } from "../formats/safetensors.ts";
import { copySideFiles } from "../formats/side-files.ts";
import { storedName } from "../models/decoder-weights.ts";
import { otherTowers, withTieFlag } from "../models/folder-config.ts";
import { moduleInWhole, withTextValues } from "../models/text-tower.ts";
import { writeTextBesideAdapter, writeTextIntoModel } from "../publish/text-files.ts";
import { encodeFrom } from "../tensor/dtype.ts";
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
  const tensors = parameters.entries.map((parameter) => {
    const stored = storedName(model.config, parameter.name, (name) => folder.tensors.has(name));
    const entry = folder.tensors.get(stored);
    const dtype = entry && fromSafetensorsDType(entry.dtype);
    if (!entry || !dtype) throw new BugError(`trained weight ${parameter.name} is not in the base model`);
    return {
      name: folder.storedName(parameter.name),
      dtype: entry.dtype,
      shape: parameter.tensor.shape,
      data: async () => encodeFrom(await parameters.read(parameter), dtype),
    };
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
