// The receipt of a GGUF file: it is read back as a base is, and what it predicts on sample text is held against what it was
// made of; where node-llama-cpp is installed llama.cpp reads it too and is held against our reading. So gibberish after
// export is found before the file leaves. The comparison is merge-receipt.ts's.

import type { Backend } from "../backend/backend.ts";
import { beginText } from "../data/render.ts";
import { openFile } from "../formats/disk.ts";
import { openWholeGguf } from "../formats/gguf-parts.ts";
import { ggufPlace } from "../formats/gguf-place.ts";
import { unpackGguf } from "../models/gguf/unpack.node.ts";
import { type OpenedModel, openModel } from "../models/open-model.ts";
import { UserError } from "../util/errors.ts";
import { fileTypes, type GgufFileType } from "./gguf-mix.ts";
import { openInLlama } from "./llama-cpp.ts";
import {
  type Comparison,
  compareLogits,
  cutSamples,
  type SampleLogits,
  sampleLogits,
} from "./merge-receipt.ts";
import { sampleTexts } from "./sample-text.ts";

export interface ReceiptOptions {
  readonly file: string;
  /** What the file was made of: a folder, and an adapter; absent: the file is read by itself. */
  readonly model?: string;
  readonly adapter?: string;
  readonly chatTemplate?: string;
  /** The most that the mean KL divergence from it may be, in nats; by the file's type when absent. */
  readonly bound?: number;
}

export interface GgufReceipt {
  readonly file: string;
  readonly tokens: number;
  readonly perplexity: number;
  /** Against what it was made of. */
  readonly source?: Comparison;
  /** Of the sample tokens, the first after which another token is likeliest; -1 where there is none. */
  readonly firstDifference?: number;
  readonly chatTemplate: "same" | "none" | "differs" | "not compared";
  /** llama.cpp against our reading of the file; or why it was not asked; or why it does not load the file. */
  readonly llamaCpp: Comparison | { readonly absent: string } | { readonly refused: string };
  /** Whether llama.cpp makes the same tokens of the sample texts. */
  readonly sameTokens?: boolean;
  readonly passed: boolean;
}

/**
 * What a type may cost: mean KL divergence in nats. Half as much again as it costs the most fragile models, mixtures of random
 * weights: a file beyond that is not rounded but wrong, which costs whole nats.
 */
export const receiptBounds: Readonly<Record<GgufFileType, number>> = {
  ...{ f32: 1e-4, f16: 1e-3, bf16: 5e-3, q8_0: 0.02, q6_k: 0.08 },
  ...{ q5_0: 0.15, q5_1: 0.15, q5_k_s: 0.15, q5_k_m: 0.15 },
  ...{ q4_0: 0.4, q4_1: 0.4, q4_k_s: 0.4, q4_k_m: 0.4 },
};

/** llama.cpp rounds activations to 8 bits beside quantised weights, and a mixture then may ask another expert. */
const llamaBound = 0.1;
const sampleTokens = 320;
const longestSample = 128;
/** Tokens that llama.cpp is asked about: it answers with all probabilities, one token at a time. */
const llamaTokens = 96;

/** UserError for a file that cannot be read back. */
export async function ggufReceipt(backend: Backend, options: ReceiptOptions): Promise<GgufReceipt> {
  const { file, model } = options;
  await unpackGguf(file);
  const own = await reading(backend, ggufPlace(file).folder);
  const source = model === undefined ? undefined : await against(backend, options, model, own);
  const llama = await inLlama(file, own);
  const comparison = compareLogits("itself", own.samples, own.logits, own.logits, Number.POSITIVE_INFINITY);
  const template = !source ? "not compared" : templates(own.template, source.template);
  return {
    ...{ file, tokens: comparison.tokens, perplexity: comparison.perplexityMerged },
    ...(source ? { source: source.comparison, firstDifference: firstDifference(own, source.logits) } : {}),
    chatTemplate: template,
    llamaCpp: llama.comparison,
    ...(llama.sameTokens === undefined ? {} : { sameTokens: llama.sameTokens }),
    passed:
      (source?.comparison.passed ?? true) &&
      ("passed" in llama.comparison ? llama.comparison.passed : "absent" in llama.comparison) &&
      llama.sameTokens !== false &&
      template !== "differs",
  };
}

/** What of a receipt is not as it should be. */
export function receiptProblems({ source, llamaCpp, chatTemplate, sameTokens }: GgufReceipt): string[] {
  const far = ({ meanKl, bound, reference }: Comparison) =>
    `it is ${meanKl.toPrecision(3)} nats from ${reference}, and ${bound} are allowed`;
  return [
    ...(source && !source.passed ? [far(source)] : []),
    ...("passed" in llamaCpp && !llamaCpp.passed ? [`llama.cpp: ${far(llamaCpp)}`] : []),
    ...("refused" in llamaCpp ? [`llama.cpp does not load it: ${llamaCpp.refused}`] : []),
    ...(chatTemplate === "differs" ? ["its chat template is another one"] : []),
    ...(sameTokens === false ? ["llama.cpp makes other tokens of the sample texts"] : []),
  ];
}

function templates(one: string | undefined, other: string | undefined): GgufReceipt["chatTemplate"] {
  if (one !== other) return "differs";
  return one === undefined ? "none" : "same";
}

/** Of what the file was made of: its predictions, and how far the file's are from them. */
async function against(
  backend: Backend,
  { file, adapter, chatTemplate, bound }: ReceiptOptions,
  model: string,
  { samples, logits, vocabulary }: Reading,
) {
  await using opened = await openModel(backend, model, { adapter, text: { adapter, chatTemplate } });
  if (opened.config.vocabularySize !== vocabulary) {
    throw new UserError(
      `${file}: it has ${vocabulary} tokens and ${model} ${opened.config.vocabularySize}: it was not made of it`,
    );
  }
  const wanted = await sampleLogits(opened.loaded.decoder, samples);
  return {
    logits: wanted,
    template: opened.text.template?.hash,
    comparison: compareLogits("what it was made of", samples, wanted, logits, bound ?? (await boundOf(file))),
  };
}

/** By what a file is named after; the widest where that is no type that is written here. */
async function boundOf(path: string): Promise<number> {
  const file = await openWholeGguf(path, openFile);
  const id = file.metadata.get("general.file_type")?.value;
  await file.close();
  const names = Object.keys(fileTypes) as GgufFileType[];
  return receiptBounds[names.find((name) => fileTypes[name].id === id) ?? "q4_0"];
}

function firstDifference({ samples, logits }: Reading, other: SampleLogits): number {
  let before = 0;
  for (const [s, ids] of samples.entries()) {
    const width = logits[s]!.length / ids.length;
    for (let t = 0; t < ids.length; t++, before++) {
      if (top(logits[s]!, t, width) !== top(other[s]!, t, width)) return before;
    }
  }
  return -1;
}

interface Reading {
  readonly samples: readonly number[][];
  readonly logits: SampleLogits;
  readonly vocabulary: number;
  readonly template: string | undefined;
  readonly textTokens: readonly (readonly number[])[];
}

async function reading(backend: Backend, folder: string): Promise<Reading> {
  await using opened: OpenedModel = await openModel(backend, folder);
  const { tokenizer, config } = opened;
  const samples = cutSamples(
    sampleTexts.map((text) => beginText(tokenizer, text)),
    {
      tokens: sampleTokens,
      longest: Math.min(longestSample, config.maxPositions),
      vocabularySize: config.vocabularySize,
    },
  );
  return {
    samples,
    logits: await sampleLogits(opened.loaded.decoder, samples),
    vocabulary: config.vocabularySize,
    template: opened.text.template?.hash,
    textTokens: sampleTexts.map((text) => [...tokenizer.encode(text)]),
  };
}

async function inLlama(
  file: string,
  { samples, logits, textTokens }: Reading,
): Promise<{ readonly comparison: GgufReceipt["llamaCpp"]; readonly sameTokens?: boolean }> {
  const llama = await openInLlama(file, longestSample + 1).catch((error: Error) => error);
  if (llama instanceof Error) {
    // What this machine has no room for says nothing of the file.
    const comparison = /memory/i.test(llama.message) ? { absent: llama.message } : { refused: llama.message };
    return { comparison };
  }
  if (!llama) return { comparison: { absent: "node-llama-cpp is not installed here, nor in LOWRANK_LLAMA" } };
  try {
    const asked = samples.flatMap((ids, s) => {
      const before = samples.slice(0, s).reduce((sum, each) => sum + each.length, 0);
      const count = Math.min(ids.length, llamaTokens - before);
      return count > 1 ? [{ s, ids: ids.slice(0, count) }] : [];
    });
    const theirs: Float32Array[] = [];
    for (const { s, ids } of asked) {
      const width = logits[s]!.length / samples[s]!.length;
      const rows = await llama.probabilities(ids);
      const flat = new Float32Array(ids.length * width).fill(-50);
      for (const [t, row] of rows.entries()) {
        for (const [token, probability] of row) {
          if (token < width && probability > 0) flat[t * width + token] = Math.log(probability);
        }
      }
      theirs.push(flat);
    }
    const ours = asked.map(({ s, ids }) => {
      const width = logits[s]!.length / samples[s]!.length;
      return logits[s]!.subarray(0, ids.length * width);
    });
    const tokensOf = (text: string) => llama.tokenize(text).join();
    // llama.cpp begins a text by itself where the model's texts begin with a token.
    const same = sampleTexts.every((text, i) => {
      const own = textTokens[i]!;
      const found = tokensOf(text);
      return found === own.join() || found === own.slice(1).join();
    });
    return {
      comparison: compareLogits(
        "our reading of the file",
        asked.map(({ ids }) => ids),
        ours,
        theirs,
        llamaBound,
      ),
      sameTokens: same,
    };
  } finally {
    await llama.close();
  }
}

function top(logits: Float32Array, row: number, width: number): number {
  let best = row * width;
  for (let i = best; i < (row + 1) * width; i++) if (logits[i]! > logits[best]!) best = i;
  return best - row * width;
}
