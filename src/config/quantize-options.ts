// The options of `lowrank quantize`: a model folder in, a bitsandbytes 4-bit folder out. Not here: how it is done
// (publish/quantize-folder.ts).

import { blockSizes } from "../quant/codebook.ts";
import { choice, defineOptions, type OptionsOf, text, toggle, whole } from "./define.ts";
import { deviceFields, modelFields } from "./fields.ts";

const { backend, threads, json } = deviceFields;

export const quantizeDefinition = defineOptions({
  command: "quantize",
  summary:
    "Write a model's linear layers in 4 bits, as a folder that bitsandbytes and --method qlora take as it is.",
  groups: {
    "Model and result": {
      model: modelFields.model,
      out: text("new folder to write the quantised model to", { required: true, placeholder: "DIR" }),
    },
    Quantisation: {
      quantType: choice(["nf4", "fp4"], "4-bit data type", { default: "nf4" }),
      blockSize: whole(`weights that share a scale: ${blockSizes.join(", ")}`, {
        min: blockSizes[0],
        max: blockSizes.at(-1),
        default: 64,
      }),
      experts: choice(
        ["quantized", "kept"],
        "experts of a mixture: in 4 bits, which transformers 5 cannot open, or as they are, which it can",
        { default: "quantized" },
      ),
      doubleQuant: toggle("quantise the scales as well: 4.13 bits a weight in place of 4.5", true),
    },
    "Device and output": { backend, threads, json },
  },
  examples: ["lowrank quantize --model llama-2-7b --out llama-2-7b-nf4"],
});

export type QuantizeOptions = OptionsOf<typeof quantizeDefinition>;
