// The options of `lowrank eval`: which rows, which metrics. Not here: what a metric is (metrics/).

import { type TextMetricName, textMetrics } from "../metrics/index.ts";
import { choices, dataFile, defineOptions, type OptionsOf, text } from "./define.ts";
import {
  batchFields,
  chatTemplate,
  deviceFields,
  maxNewTokens,
  modelFields,
  overLength,
  rankFields,
  trainOn,
} from "./fields.ts";

export type MetricName = "perplexity" | TextMetricName;
export const metricNames: readonly MetricName[] = [
  "perplexity",
  ...(Object.keys(textMetrics) as TextMetricName[]),
];

export const evalDefinition = defineOptions({
  command: "eval",
  summary: "Measure a model, with or without an adapter, on rows of data.",
  groups: {
    Model: modelFields,
    "Data and metrics": {
      data: dataFile("rows: a JSONL, JSON, CSV or Parquet file", { required: true }),
      metrics: choices(metricNames, "what to measure", { default: ["perplexity"] }),
      maxNewTokens,
      predictions: text("JSONL file to write each row's generated text to", { placeholder: "F.jsonl" }),
      trainOn,
      chatTemplate,
      overLength,
      ...batchFields,
    },
    "Several machines": rankFields,
    "Device and output": deviceFields,
  },
  examples: ["lowrank eval --model tiny --adapter runs/first --data test.jsonl --metrics perplexity,rouge"],
});

export type EvalOptions = OptionsOf<typeof evalDefinition>;
