// The options of `lowrank plan`: the shape, the limit to stay within, the work to price. Not here: how anything is
// counted (plan/).

import { UsageError } from "../util/errors.ts";
import {
  choice,
  configName,
  dataFile,
  defineOptions,
  type OptionsOf,
  real,
  size,
  text,
  toggle,
  whole,
} from "./define.ts";
import {
  adapterFields,
  batchFields,
  chatTemplate,
  deviceFields,
  methods,
  optimizer,
  quantType,
  trainOn,
} from "./fields.ts";
import { objectiveFields } from "./objective-fields.ts";

export const planDefinition = defineOptions({
  command: "plan",
  summary: "Count memory, time and cost of training a model before paying for it.",
  groups: {
    "Model and adapter": {
      model: configName("a model folder, tiny, or a bare config.json: no weights are read", {
        required: true,
      }),
      ...adapterFields,
      method: choice(methods, "plan this method alone", { defaultText: "all of them" }),
      batchSize: batchFields.batchSize,
      sequenceLength: whole("most tokens in a sequence (or pack)", {
        min: 2,
        max: 2 ** 24,
        defaultText: "1024, or the model's positions where these are fewer",
      }),
      optimizer,
      quantType,
      objective: objectiveFields.objective,
      paged: toggle("let optimizer state leave the device's memory when it is short", false),
    },
    "Limit, work and price": {
      vram: size("device memory to stay within, for example 24GB"),
      gpu: text("GPU by its name in the table: its memory, peak and price", { placeholder: "NAME" }),
      gpus: text("YAML with GPUs and prices of your own, in place of lowrank's", { placeholder: "FILE" }),
      utilization: real("part of a GPU's peak that training is taken to reach", {
        min: 0,
        max: 1,
        open: true,
        defaultText: "as the table says",
      }),
      price: real("US dollars for an hour of the device", { min: 0, defaultText: "as the table says" }),
      tokens: whole("tokens to train on, repetitions included", { min: 1 }),
      data: dataFile("training rows whose tokens are counted, in place of --tokens"),
      epochs: real("passes over --data; parts of one count", { min: 0, open: true, default: 1 }),
      trainOn,
      chatTemplate,
      probe: toggle("time a few real steps on random weights of this shape, here", false),
      explain: toggle("print the derivation line by line, published figures beside ours", false),
    },
    "Several machines": {
      ranks: whole("ranks that train together over MPI", { min: 1, max: 2 ** 20 }),
      network: text("rate of the network between them, such as 10Gbit, for seconds and efficiency", {
        placeholder: "RATE",
      }),
      microBatches: whole("micro-batches of each rank in a step", { min: 1, max: 2 ** 24, default: 1 }),
    },
    "Device and output": deviceFields,
  },
  alternatives: [["tokens", "data"]],
  finish(values) {
    if (values.network !== undefined && values.ranks === undefined)
      throw new UsageError("--network lies between ranks: say how many with --ranks N");
    return values;
  },
  examples: [
    "lowrank plan --model config.json --gpu rtx4090 --tokens 10000000",
    "lowrank plan --model config.json --explain",
    "lowrank plan --model tiny --data rows.jsonl --epochs 3 --probe",
  ],
});

export type PlanOptions = OptionsOf<typeof planDefinition>;
