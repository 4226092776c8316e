// Types and loaders of the goldens that are not one model: adapters, optimizers, schedules, QLoRA, text.
// Units and conventions are in tools/golden/README.md; models are in load-golden.ts, quantisers in quant-golden.ts.

import {
  type ByteArray,
  type FloatArray,
  formulaTensor,
  type GoldenSequence,
  type ModelGolden,
  type NamedShape,
  readGolden,
  type Trajectory,
} from "./load-golden.ts";

type Versions = Readonly<Record<string, string>>;
type Cases<T> = Readonly<Record<string, T>>;

export interface AdapterCase {
  /** adapter_config.json as PEFT wrote it. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Sorted; write the folder with writeAdapterFolder(folder, config, seed, adapter). */
  readonly adapter: readonly NamedShape[];
  readonly logits: FloatArray;
  readonly float32Deviation: number;
}

export interface AdaptersGolden {
  readonly versions: Versions;
  /** Name of the model golden below the adapters. */
  readonly base: string;
  readonly seed: number;
  readonly ids: readonly number[];
  readonly cases: Cases<AdapterCase>;
}

export interface OptimizerSettings {
  readonly seed: number;
  readonly count: number;
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  readonly maxGradNorm: number | null;
  readonly paramScale: number;
  readonly gradScale: number;
}

export interface AdamwCase extends OptimizerSettings {
  /** [steps, count]: parameters after each step. */
  readonly params: FloatArray;
  /** Before clipping. */
  readonly gradNorms: readonly number[];
  /** Moments after the last step. */
  readonly m: FloatArray;
  readonly v: FloatArray;
  readonly float32Deviation: number;
}

export interface Adamw8bitCase extends OptimizerSettings {
  /** Gradients of elements 256..511 are zero. */
  readonly zeroBlock: boolean;
  /** State after some of ten steps, counted from 1. */
  readonly steps: readonly {
    readonly step: number;
    readonly params: FloatArray;
    readonly m: ByteArray;
    readonly v: ByteArray;
    readonly mScales: FloatArray;
    readonly vScales: FloatArray;
  }[];
}

/** factors[s] multiplies the learning rate of update s, counted from 0. */
export interface ScheduleCase {
  readonly warmupSteps: number;
  readonly totalSteps: number;
  readonly factors: readonly number[];
}

export interface QloraCase extends Pick<ModelGolden, "config" | "configTransformers4" | "seed" | "tensors"> {
  readonly adapter: readonly NamedShape[];
  readonly sequence: {
    readonly ids: readonly number[];
    /** Of the quantised base, without adapter. */
    readonly logits: FloatArray;
    readonly float32Deviation: number;
    readonly distanceFromUnquantized: number;
  };
  readonly packed: {
    readonly sequences: readonly GoldenSequence[];
    readonly loss: number;
    readonly lossFloat32: number;
    readonly float32Deviation: number;
    readonly gradients: Cases<{ readonly norm: number; readonly sum: number }>;
  };
  readonly training: ModelGolden["training"] &
    Trajectory & {
      readonly lossesBitsandbytes?: readonly number[];
      readonly gradNormsBitsandbytes?: readonly number[];
    };
}

export interface QloraGolden {
  readonly versions: Versions;
  readonly rank: number;
  readonly alpha: number;
  readonly targets: string;
  readonly cases: Cases<QloraCase>;
}

/** A rendered chat template: its length in code points and SHA-256, or why there is none. */
export interface RenderedTemplate {
  readonly length?: number;
  readonly sha256?: string;
  readonly ids?: readonly number[];
  readonly refused?: string;
  readonly skipped?: string;
}

export interface TextGolden {
  readonly versions: Versions;
  readonly texts: readonly string[];
  readonly conversations: Cases<{
    readonly messages: readonly { readonly role: string; readonly content: string }[];
    readonly addGenerationPrompt: boolean;
  }>;
  readonly templateVariables: Readonly<Record<string, string>>;
  /** By path below ../shared/assets; one entry a text. */
  readonly tokenizers: Cases<{
    readonly ids: readonly (readonly number[])[];
    readonly idsWithoutSpecial: readonly (readonly number[])[];
    readonly decoded: readonly string[];
  }>;
  /** By path of a tokenizer_config.json, then by conversation; bos and eos are the file's own. */
  readonly chat: Cases<Cases<RenderedTemplate>>;
  /** By path of a template, then by conversation; rendered with templateVariables. */
  readonly templates: Cases<Cases<RenderedTemplate>>;
}

export const loadAdaptersGolden = () => readGolden<AdaptersGolden>("adapters.json");
export const loadQloraGolden = () => readGolden<QloraGolden>("qlora.json");
export const loadTextGolden = () => readGolden<TextGolden>("text.json");
export const loadAdamwGolden = () =>
  readGolden<{ versions: Versions; steps: number; cases: Cases<AdamwCase> }>("optim/adamw.json");
/** Trajectories of an optimizer by the name that users give. */
export const loadOptimizerGolden = (name: string) =>
  readGolden<{ versions: Versions; steps: number; cases: Cases<Omit<AdamwCase, "v">> }>(`optim/${name}.json`);
export const loadAdamw8bitGolden = () =>
  readGolden<{ versions: Versions; blockSize: number; cases: Cases<Adamw8bitCase> }>("optim/adamw-8bit.json");
export const loadSchedulesGolden = () =>
  readGolden<{ versions: Versions; cases: Cases<readonly ScheduleCase[]> }>("optim/schedules.json");

/** Parameters before the first step. */
export function optimizerParams(settings: OptimizerSettings): Float32Array {
  return formulaTensor(settings.seed, 0, [settings.count], settings.paramScale);
}

/** Gradients of a step, counted from 1. */
export function optimizerGradients(
  settings: OptimizerSettings & { readonly zeroBlock?: boolean },
  step: number,
): Float32Array {
  const gradients = formulaTensor(settings.seed, step, [settings.count], settings.gradScale);
  if (settings.zeroBlock) gradients.fill(0, 256, 512);
  return gradients;
}
