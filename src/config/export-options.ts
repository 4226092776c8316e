// The options of `lowrank export`. What they do is publish/export-gguf.ts.

import { fileTypes, type GgufFileType } from "../publish/gguf-mix.ts";
import { blockTypeOf } from "../quant/ggml/index.ts";
import { UsageError } from "../util/errors.ts";
import { choice, defineOptions, type OptionsOf, real, text, toggle } from "./define.ts";
import { chatTemplate, deviceFields, modelFields } from "./fields.ts";

export const exportDefinition = defineOptions({
  command: "export",
  summary:
    "Write a model, with an adapter merged in or not, or an adapter alone, as a GGUF file for llama.cpp.",
  groups: {
    Export: {
      ...modelFields,
      chatTemplate,
      adapterOnly: toggle("write the adapter alone, for llama.cpp's --lora", false),
      format: choice(["gguf"], "format of the file", { default: "gguf" }),
      type: choice(["auto", ...(Object.keys(fileTypes) as GgufFileType[])], "type of the tensors", {
        defaultText: "auto, the model's own, bf16 of a quantised one; f32 for an adapter",
        default: "auto",
      }),
      importance: text(
        "rows of data on which the importance of columns is measured, or an importance matrix of llama.cpp: errors of quantised weights count by it",
        { placeholder: "F" },
      ),
      writeImportance: text("where the importance that was measured is written, for llama.cpp's --imatrix", {
        placeholder: "F.gguf",
      }),
      out: text("file to write", { required: true, placeholder: "F.gguf" }),
      receipt: toggle("read the file back and hold it against what it was made of", true),
      receiptBound: real("the most that the mean KL divergence from it may be, in nats", {
        defaultText: "by the type: from 0.0001 of f32 to 0.4 of 4 bits",
        min: 0,
      }),
      force: toggle("keep the file even where the receipt is not good enough", false),
      modelfile: toggle("write an Ollama Modelfile beside it", true),
      preTokenizer: text("llama.cpp's name for how the tokenizer first splits text, where it is not found", {
        placeholder: "NAME",
      }),
    },
    "Device and output": deviceFields,
  },
  examples: [
    "lowrank export --model tiny --adapter runs/first --type q8_0 --out first.gguf",
    "lowrank export --model tiny --adapter runs/first --adapter-only --out first-lora.gguf",
  ],
  finish(values) {
    if (values.adapterOnly && values.adapter === undefined)
      throw new UsageError("--adapter-only needs --adapter: the adapter to write.");
    if (values.writeImportance !== undefined && values.importance === undefined)
      throw new UsageError("--write-importance needs --importance: rows of data to measure it on.");
    const blocks = Object.entries(fileTypes).filter(([, { of }]) => blockTypeOf(of));
    if (values.importance !== undefined && !blocks.some(([name]) => name === values.type))
      throw new UsageError(
        `--importance weighs the errors of quantised types: give --type ${blocks.map(([name]) => name).join(", ")}.`,
      );
    return values;
  },
});

export type ExportCommandOptions = OptionsOf<typeof exportDefinition>;
