// The options of `lowrank train`, each in one place with its meaning, range and default. Where a default is a
// choice: the schedule is linear and the moments' constants are those of torch.optim.AdamW, weight decay included;
// adapters go on all linear layers; the learning rate depends on the method, because adapters want about ten times
// that of full fine-tuning. Not here: what the options do (train/run.ts).

import { findingCodes } from "../data/preflight.ts";
import { type TextMetricName, textMetrics } from "../metrics/index.ts";
import { scoreOptions } from "../metrics/scores.ts";
import { optimizerDefaults, optimizerNames, optimizers } from "../optim/index.ts";
import { UsageError } from "../util/errors.ts";
import { dataSources } from "./data-field.ts";
import {
  choice,
  choices,
  dataFile,
  defineOptions,
  type OptionsOf,
  real,
  recipeOf,
  text,
  toggle,
  whole,
} from "./define.ts";
import { checkEvaluation } from "./evaluation-rules.ts";
import {
  adapterFields,
  batchFields,
  chatTemplate,
  deviceFields,
  eosToken,
  gradientCheckpointing,
  type Method,
  maxNewTokens,
  modelFields,
  optimizerFields,
  overLength,
  padToken,
  paged,
  pagedBudget,
  quantType,
  rankFields,
  trainOn,
  vram,
} from "./fields.ts";
import { finishObjective, objectiveFields } from "./objective-fields.ts";
import { flagName } from "./resolve.ts";
import { finishRollouts, rolloutFields } from "./rollout-fields.ts";
import { checkSchedule, scheduleAlternatives } from "./schedule-fields.ts";
import { refuseKeysInAddresses, trackerFields } from "./tracker-fields.ts";

const learningRates: Readonly<Record<Method, number>> = { lora: 2e-4, qlora: 2e-4, full: 2e-5 };
/** Of objectives that hold answers against each other: what TRL takes for all weights, and ten times that for adapters. */
const preferenceRates: Readonly<Record<Method, number>> = { lora: 1e-5, qlora: 1e-5, full: 1e-6 };
/** "; lion: 0.2 of that". */
const rateFactors = optimizerNames
  .flatMap((name) =>
    optimizers[name].rateFactor ? [`; ${name}: ${optimizers[name].rateFactor} of that`] : [],
  )
  .join("");
const defaultEpochs = 3;
const textMetricNames = Object.keys(textMetrics) as TextMetricName[];
/** What says how a new adapter is made, beside options that have a default. */
const ofNewAdapters = [
  "exclude",
  "layers",
  "rankPattern",
  "alphaPattern",
  "modulesToSave",
  "loraPlusRatio",
] as const;

export const trainDefinition = defineOptions({
  command: "train",
  summary: "Fine-tune a model with LoRA, QLoRA or in full.",
  groups: {
    "Model and adapter": {
      model: modelFields.model,
      out: text("folder to write the result to", { required: true, placeholder: "DIR" }),
      ...adapterFields,
      quantType,
      initAdapter: text("adapter in PEFT layout to continue from", { placeholder: "DIR" }),
      addTokens: text("tokens to add and train, one a line or as a JSON list", { placeholder: "F" }),
    },
    Objective: objectiveFields,
    "Rewards (--objective grpo)": rolloutFields,
    Data: {
      data: dataSources(
        "data",
        "training rows: a JSONL, JSON, CSV or Parquet file (.gz, .zst), a folder or a pattern; repeatable, each with F:weight=2,limit=500",
        { required: true },
      ),
      dataLimit: whole("rows to take of each --data, the first; all when absent", { min: 1 }),
      deduplicate: toggle("leave out training rows that equal or nearly equal an earlier one", false),
      trainOn,
      chatTemplate,
      eosToken,
      padToken,
      overLength,
      allow: choices(findingCodes, "findings of the preflight to train in spite of"),
      packing: toggle("fill each sequence with several rows that do not see each other", false),
      shuffle: toggle("visit rows in a new random order each epoch", true),
    },
    Steps: {
      epochs: real("passes over the data; parts of one count", {
        min: 0,
        open: true,
        defaultText: `${defaultEpochs}, unless --max-steps is given`,
      }),
      maxSteps: whole("optimizer steps, in place of epochs", { min: 1 }),
      ...batchFields,
      gradientAccumulation: whole("micro-batches in an optimizer step", { min: 1, max: 2 ** 24, default: 1 }),
      batchTokens: whole("target tokens of an optimizer step: as many micro-batches as reach them", {
        min: 1,
      }),
    },
    Optimizer: {
      learningRate: real("highest learning rate", {
        min: 0,
        open: true,
        defaultText: `${learningRates.lora} for lora and qlora, ${learningRates.full} for full, on preferences ${preferenceRates.lora} and ${preferenceRates.full}${rateFactors}`,
      }),
      neftuneAlpha: real("noise on the embeddings in training (NEFTune), uniform up to alpha / sqrt(L d)", {
        min: 0,
        open: true,
        defaultText: "no noise",
      }),
      ...optimizerFields,
    },
    "Evaluation and checkpoints": {
      evalData: dataSources("eval-data", "rows to evaluate on, given as --data is"),
      evalFraction: real("part of the training rows to set aside for evaluation", {
        min: 0,
        max: 1,
        open: true,
      }),
      evalEvery: whole("steps between evaluations", { min: 1, defaultText: "once, at the end" }),
      evalMetrics: choices(textMetricNames, "scores of answers to the rows, at each evaluation"),
      maxNewTokens,
      sample: text("prompt to complete at each evaluation"),
      keepBest: choice(
        scoreOptions,
        `score whose best evaluation the result is of, in place of the last step: ${scoreOptions.join(", ")}`,
        { placeholder: "METRIC" },
      ),
      patience: whole(
        "evaluations without a better score after which the run stops; of --keep-best, or loss",
        {
          min: 1,
        },
      ),
      minDelta: real("least difference that --patience counts as better", { min: 0, defaultText: "0" }),
      averageCheckpoints: whole(
        "checkpoints of --save-every whose mean is the result, the last step's included",
        {
          min: 2,
          max: 1000,
        },
      ),
      forget: dataFile("rows that the model can answer now: at each evaluation, what of them it still can"),
      saveEvery: whole("steps between checkpoints", {
        min: 1,
        defaultText: "by the clock, when interrupted, and at the end",
      }),
      saveMinutes: real("minutes after which a checkpoint is saved if none was; 0 never", {
        min: 0,
        default: 10,
        placeholder: "N",
      }),
      saveEnd: toggle("save a checkpoint at the end, for a longer run to go on from", true),
      timing: toggle("write tokens per second and elapsed time into metrics.jsonl", true),
      keep: whole("checkpoints to keep", { min: 1, default: 2 }),
      resume: toggle(
        "continue from the newest checkpoint in --out; --max-steps or --epochs may have grown",
        false,
      ),
    },
    Trackers: trackerFields,
    "Several machines": {
      ...rankFields,
      shardOptimizer: toggle(
        "on several ranks, each keeps the optimizer's state of its share of the parameters (for --method full)",
        false,
      ),
    },
    "Memory, device and output": {
      gradientCheckpointing,
      paged,
      pagedBudget,
      vram,
      ...deviceFields,
      ui: toggle("show the run in a local page while it lasts (lowrank ui)", false),
      uiPort: whole("port of that page; 0 takes any free one", { max: 65535, default: 7860 }),
    },
  },
  examples: [
    "lowrank train --model tiny --data rows.jsonl --out runs/first",
    "lowrank train train.yaml --method qlora --rank 16",
  ],
  alternatives: [
    ["epochs", "maxSteps"],
    ["evalData", "evalFraction"],
    ["keepBest", "averageCheckpoints"],
    ["gradientAccumulation", "batchTokens"],
    ...scheduleAlternatives,
  ],
  // The number of steps is the recipe's in place of epochs and maxSteps; models, rows and added tokens are in it by the
  // hashes of what they become.
  places: [
    ...([
      "model",
      "out",
      "data",
      "evalData",
      "addTokens",
      "allow",
      "epochs",
      "maxSteps",
      "evalEvery",
      "sample",
      "maxNewTokens",
    ] as const),
    ...([
      "saveEvery",
      "saveMinutes",
      "saveEnd",
      "timing",
      "keep",
      "resume",
      "gradientCheckpointing",
    ] as const),
    ...(["log", "logProject", "logRun", "trackioUrl", "mlflowUri"] as const),
    ...(["distributed", "collectiveTimeout", "shardOptimizer", "rewardTimeout"] as const),
    ...(["paged", "pagedBudget", "vram", "backend", "precision", "threads", "json", "ui", "uiPort"] as const),
  ],
  finish(values) {
    const evaluation = checkEvaluation(values);
    if (values.neftuneAlpha !== undefined && values.objective !== "sft")
      throw new UsageError(`--neftune-alpha is of --objective sft; ${values.objective} has no noise.`);
    if (values.method === "full" && values.initAdapter !== undefined) {
      throw new UsageError("--init-adapter needs --method lora or qlora: full fine-tuning has no adapter.");
    }
    for (const key of ofNewAdapters) {
      const flag = flagName(key);
      if (values[key] === undefined) continue;
      if (values.method === "full")
        throw new UsageError(`${flag} needs --method lora or qlora: full fine-tuning has no adapter.`);
      if (values.initAdapter !== undefined && key !== "loraPlusRatio")
        throw new UsageError(`${flag} begins a new adapter, so it does not go with --init-adapter.`);
    }
    for (const [key, value] of [
      ["adapter", "lora"],
      ["init", "default"],
    ] as const) {
      if (values[key] === value) continue;
      const flag = `${flagName(key)} ${values[key]}`;
      if (values.method === "full")
        throw new UsageError(`${flag} needs --method lora or qlora: full fine-tuning has no adapter.`);
      if (values.initAdapter !== undefined)
        throw new UsageError(`${flag} begins a new adapter, so it does not go with --init-adapter.`);
    }
    if (values.addTokens !== undefined && values.initAdapter !== undefined) {
      throw new UsageError(
        "--add-tokens begins an adapter with its tokens, so it does not go with --init-adapter; an adapter that has added tokens keeps training them.",
      );
    }
    if (values.pagedBudget !== undefined && !values.paged) {
      throw new UsageError("--paged-budget needs --paged.");
    }
    refuseKeysInAddresses(values);
    const epochs = values.epochs ?? (values.maxSteps === undefined ? defaultEpochs : undefined);
    const constants = optimizerDefaults(values.optimizer);
    const factor = optimizers[values.optimizer].rateFactor ?? 1;
    const rates = values.objective === "sft" ? learningRates : preferenceRates;
    const rate = Number((rates[values.method] * factor).toPrecision(6));
    const learningRate = values.learningRate ?? rate;
    checkSchedule({ ...values, learningRate });
    return {
      ...values,
      ...evaluation,
      ...finishObjective(values),
      ...finishRollouts(values),
      // What is off is no part of a run's identity, which runs from before the option have without it.
      deduplicate: values.deduplicate || undefined,
      epochs,
      learningRate,
      beta1: values.beta1 ?? constants.beta1,
      beta2: values.beta2 ?? constants.beta2,
      epsilon: values.epsilon ?? constants.epsilon,
      weightDecay: values.weightDecay ?? constants.weightDecay,
    };
  },
});

/**
 * What decides a run's result: every option but those that say where it happens, when it saves or how it saves memory.
 * A new field is in it unless it is named among the places.
 */
export function recipeOfRun(options: TrainOptions): Readonly<Record<string, unknown>> {
  return recipeOf(trainDefinition, options);
}

/** Checked and frozen options of one run: exactly one of epochs and maxSteps is given. */
export type TrainOptions = OptionsOf<typeof trainDefinition>;
