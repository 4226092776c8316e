// The options of `lowrank compare`: which methods, on which data, with what budget; and with --keep, which share of full
// fine-tuning's quality to look for. Not here: runs and scores (compare/).

import { findingCodes } from "../data/preflight.ts";
import { adapterKindNames } from "../nn/adapter-kinds/index.ts";
import { adapterInits } from "../nn/pissa.ts";
import { objectiveNames, objectives } from "../objectives/index.ts";
import { UsageError } from "../util/errors.ts";
import {
  choices,
  dataFile,
  defineOptions,
  modelName,
  type OptionsOf,
  real,
  text,
  whole,
  wholes,
} from "./define.ts";
import { type MetricName, metricNames } from "./eval-options.ts";
import {
  adapterFields,
  batchFields,
  chatTemplate,
  deviceFields,
  eosToken,
  maxNewTokens,
  methods,
  optimizerFields,
  overLength,
  padToken,
  quantType,
  rankFields,
  trainOn,
} from "./fields.ts";
import { checkSchedule, scheduleAlternatives } from "./schedule-fields.ts";

/** Method, rank and scale are what is compared; everything else of an adapter is the same for all. */
const { method: _method, rank: _rank, alpha: _alpha, ...adapterRest } = adapterFields;

/** Rewards are a run's own: rows of a comparison learn from what the data say. */
const compared = objectiveNames.filter((name) => objectives[name].rows !== "prompts");

export const compareDefinition = defineOptions({
  command: "compare",
  summary: "Train full, LoRA and QLoRA on your data with one budget, and say what each keeps of the quality.",
  groups: {
    "Model and data": {
      model: modelName("a model folder, a hub name, or tiny", { required: true }),
      data: dataFile("training rows", { required: true }),
      evalData: dataFile("rows to measure quality on; nothing is chosen by them", { required: true }),
      out: text("folder for the runs, the table and the plots; an unfinished comparison continues there", {
        required: true,
        placeholder: "DIR",
      }),
      trainOn,
      chatTemplate,
      eosToken,
      padToken,
      overLength,
      allow: choices(findingCodes, "findings of the preflight to train in spite of"),
    },
    "What is compared": {
      methods: choices(methods, "methods", { default: ["full", "lora", "qlora"] }),
      ranks: wholes("ranks of the adapters", { default: [8] }),
      adapters: choices(adapterKindNames, "kinds of adapters, each a row", { defaultText: "--adapter" }),
      inits: choices(adapterInits, "ways that factors begin, each a row", { defaultText: "--init" }),
      objectives: choices(compared, "what to learn from, each a row; --data has rows for all of them", {
        default: ["sft"],
      }),
      seeds: wholes("seeds: each row is trained with all of them, at the first one's learning rate", {
        min: 0,
        defaultText: "--seed",
      }),
      ...adapterRest,
      quantType,
      learningRates: text(
        "learning rates for adapters, in place of the search from train's default by powers of 10 and then 3",
        { placeholder: "X,X" },
      ),
      fullLearningRates: text("learning rates for full fine-tuning, likewise", { placeholder: "X,X" }),
      gridRuns: whole("most runs of a search for one method's learning rate", { min: 1, default: 6 }),
      validation: real("part of the training rows that learning rates are chosen on", {
        min: 0,
        max: 0.5,
        open: true,
        default: 0.1,
      }),
    },
    "Budget of a run": {
      epochs: real("passes over the data; parts of one count", {
        min: 0,
        open: true,
        defaultText: "1, unless --max-steps is given",
      }),
      maxSteps: whole("optimizer steps, in place of epochs", { min: 1 }),
      ...batchFields,
      gradientAccumulation: whole("micro-batches in an optimizer step", { min: 1, max: 2 ** 24, default: 1 }),
      batchTokens: whole("target tokens of an optimizer step: as many micro-batches as reach them", {
        min: 1,
      }),
      ...optimizerFields,
    },
    Quality: {
      metrics: choices(metricNames, "what to measure", { default: ["perplexity"] as MetricName[] }),
      quality: text("score that stands for quality, such as perplexity, rougeL or bleu", {
        defaultText: "the first of --metrics",
      }),
      maxNewTokens,
      keep: real("look for the cheapest adapter that keeps this percentage of full fine-tuning's quality", {
        min: 0,
        open: true,
        placeholder: "PERCENT",
      }),
      maxRuns: whole("most training runs that --keep may take, full fine-tuning's included", {
        min: 2,
        default: 24,
      }),
      price: real("US dollars for an hour of this machine", { min: 0 }),
    },
    "Several machines": rankFields,
    "Device and output": deviceFields,
  },
  alternatives: [
    ["epochs", "maxSteps"],
    ["adapter", "adapters"],
    ["init", "inits"],
    ["seed", "seeds"],
    ["gradientAccumulation", "batchTokens"],
    ...scheduleAlternatives,
  ],
  examples: [
    "lowrank compare --model tiny --data train.jsonl --eval-data test.jsonl --out runs/compare --max-steps 200",
    "lowrank compare examples/compare/summarisation.yaml --keep 97.5",
  ],
  finish(values) {
    if (values.keep !== undefined && !values.methods.includes("full")) {
      throw new UsageError("--keep compares with full fine-tuning: --methods must hold full.");
    }
    checkSchedule(values);
    const { seeds = [values.seed], adapters = [values.adapter], inits = [values.init], objectives } = values;
    if (new Set(seeds).size < seeds.length) throw new UsageError("--seeds names a seed twice.");
    if (values.keep !== undefined && adapters.length * inits.length * objectives.length > 1) {
      throw new UsageError(
        "--keep searches ranks of one kind of adapter: give one of each of --adapters, --inits and --objectives.",
      );
    }
    return {
      ...values,
      seed: seeds[0]!,
      seeds,
      adapters,
      inits,
      epochs: values.epochs ?? (values.maxSteps === undefined ? 1 : undefined),
    };
  },
});

export type CompareOptions = OptionsOf<typeof compareDefinition>;
