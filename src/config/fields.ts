// Fields that several commands share, so that --rank means, defaults and reads the same everywhere. Not here: how
// fields work (define.ts), or the fields of one command alone (train-options.ts and its siblings).

import { backendNames } from "../backend/index.ts";
import { cacheTypes } from "../generate/cache-type.ts";
import { adapterKindNames } from "../nn/adapter-kinds/index.ts";
import { adapterInits } from "../nn/pissa.ts";
import { defaultsText, optimizerNames, optimizers } from "../optim/index.ts";
import { quantizerNames } from "../quant/index.ts";
import {
  choice,
  commaText,
  layerNumbers,
  list,
  modelName,
  numbersByPattern,
  real,
  size,
  text,
  toggle,
  whole,
} from "./define.ts";
import { scheduleFields } from "./schedule-fields.ts";

export const methods = ["lora", "qlora", "full"] as const;
export type Method = (typeof methods)[number];

/** Which model, and an adapter to put on it. */
export const modelFields = {
  model: modelName("a folder in Hugging Face layout, a hub name owner/name[@revision], or tiny", {
    required: true,
  }),
  adapter: text("folder of a LoRA adapter in PEFT layout to use with the model", { placeholder: "DIR" }),
};

/** What trains. */
export const adapterFields = {
  method: choice(methods, "train LoRA adapters, LoRA adapters over 4-bit weights, or every weight", {
    default: "lora",
  }),
  adapter: choice(
    adapterKindNames,
    "kind of adapter: lora, or dora, which also trains a magnitude for each output",
    {
      default: "lora",
    },
  ),
  rank: whole("rank of the adapters", { min: 1, max: 65536, default: 8 }),
  alpha: real("scale of the adapters: their product counts alpha / rank", {
    min: 0,
    open: true,
    default: 16,
  }),
  dropout: real("part of the adapters' inputs that is dropped in training", {
    min: 0,
    max: 0.99,
    default: 0,
  }),
  targets: commaText("layers that get adapters: all-linear, attention, names such as q,v, or a /regex/", {
    default: "all-linear",
    placeholder: "T",
  }),
  init: choice(
    adapterInits,
    "how the factors begin: default changes nothing, pissa trains the weights' principal part (saved as LoRA of twice the rank)",
    { default: "default" },
  ),
  exclude: commaText("of the targets, layers that get no adapter: names or a /regex/"),
  layers: layerNumbers("numbers of the layers that get adapters, such as 0-3,7; all when absent"),
  rankPattern: numbersByPattern("another rank for layers that a pattern matches", {
    min: 1,
    max: 65536,
    whole: true,
  }),
  alphaPattern: numbersByPattern("another alpha for layers that a pattern matches", {
    min: 1e-12,
    max: 1e12,
  }),
  modulesToSave: list("modules to train whole beside the adapter: lm_head, embed_tokens, norms"),
  rslora: toggle("scale adapters by alpha / sqrt(rank) (rank-stabilized LoRA)", false),
  loraPlusRatio: real("learning rate of the B factors over that of the A factors (LoRA+)", {
    min: 0,
    open: true,
    max: 1e6,
    defaultText: "one rate for both",
  }),
};

/** What a quantised base is made of; every quantiser that there is can be trained with. */
export const quantType = choice(quantizerNames, "values that a 4-bit base has, with --method qlora", {
  default: "nf4",
});

/** How much goes through the model at once. */
export const batchFields = {
  batchSize: whole("sequences (or packs) in a micro-batch", { min: 1, max: 65536, default: 4 }),
  sequenceLength: whole("most tokens in a sequence (or pack)", { min: 2, max: 2 ** 24, default: 1024 }),
};

export const gradientCheckpointing = choice(
  ["auto", "on", "off"],
  "recompute activations in the backward pass instead of keeping them: less memory, more time",
  { default: "auto" },
);

const optimizerTraits = optimizerNames.flatMap((name) => optimizers[name].about ?? []);

export const optimizer = choice(optimizerNames, ["optimizer", ...optimizerTraits].join("; "), {
  default: "adamw",
});

/** What updates the parameters, and on what course; the learning rate is each command's. */
export const optimizerFields = {
  optimizer,
  ...scheduleFields,
  beta1: real("decay of the first moment", { min: 0, max: 0.999999, defaultText: defaultsText("beta1") }),
  beta2: real("decay of the second moment, and of Lion's one", {
    min: 0,
    max: 0.99999999,
    defaultText: defaultsText("beta2"),
  }),
  epsilon: real("AdamW's epsilon", { min: 0, open: true, defaultText: defaultsText("epsilon") }),
  weightDecay: real("decoupled weight decay", { min: 0, defaultText: defaultsText("weightDecay") }),
  maxGradNorm: real("clip gradients to this norm; 0 clips nothing", { min: 0, default: 1 }),
};

export const paged = toggle(
  "let optimizer state beyond a budget leave memory for a file, or a GPU's for the machine's, until it is needed",
  false,
);

export const pagedBudget = size("optimizer state that stays in memory with --paged", {
  defaultText: "what --vram leaves; else half of the memory available, and nothing on a GPU",
});

export const overLength = choice(
  ["error", "drop", "truncate"],
  "what to do with a row longer than the sequence length",
  { default: "error" },
);

export const trainOn = choice(
  ["completions", "assistant", "all"],
  "tokens that count in the loss: completions, every assistant turn, or all tokens",
  { defaultText: "assistant for conversations, else completions" },
);

export const chatTemplate = text("Jinja file, in place of the chat template of the adapter or the model", {
  placeholder: "F",
});

export const eosToken = text("token that ends an answer, in place of the tokenizer's own", {
  placeholder: "TEXT",
});

export const padToken = text("token that the result names for padding, in place of the tokenizer's own", {
  placeholder: "TEXT",
});

export const maxNewTokens = whole("most tokens to generate", { min: 1, max: 2 ** 24, default: 128 });

export const vram = size(
  "device memory to stay within, for example 24GB: turns on what saves memory before it refuses a run",
);

/** How several processes work on one run. */
/** Of commands whose engine lives as long as they do. */
export const cacheFields = {
  kvType: choice(
    ["auto", ...cacheTypes],
    "what keys and values of earlier tokens are stored as; auto is f32 with --precision fp32, else 16 bits; q8_0 is 8 bits",
    { default: "auto" },
  ),
  kvMemory: size("what keys and values may take; prompts' beginnings are kept for others within it", {
    defaultText: "what all slots need, or what is free if that is less",
  }),
};

export const rankFields = {
  distributed: choice(
    ["auto", "mpi", "off"],
    "work as one of several ranks over MPI: where mpirun or srun started several, always, never",
    { default: "auto" },
  ),
  collectiveTimeout: real("seconds to wait for other ranks without a word from them", {
    min: 0,
    open: true,
    default: 300,
    placeholder: "S",
  }),
};

/** Where it runs, and how it reports. */
export const deviceFields = {
  backend: choice(backendNames, "device", { default: "auto" }),
  precision: choice(["auto", "fp32", "bf16", "fp16"], "arithmetic of matrix products", { default: "auto" }),
  threads: whole("CPU threads", { min: 0, max: 4096, default: 0, defaultText: "0, one for each core" }),
  seed: whole("seed of everything random", { default: 0 }),
  json: toggle("print one JSON document on stdout and nothing else there", false),
};
