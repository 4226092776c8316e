// A merge from folders to a folder: reads base and adapter, writes the merged weights tensor by tensor, then loads
// what was written and holds it against the model that was trained. A merge that drifted too far is not kept unless
// forced; its report is. Not here: the arithmetic (merged-source.ts), the comparison (merge-receipt.ts).

import type { Backend } from "../backend/backend.ts";
import { toExamples } from "../data/index.ts";
import { readRows } from "../data/read-rows.node.ts";
import { beginText, renderExample } from "../data/render.ts";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import { openFile } from "../formats/disk.ts";
import { isJsonObject, type JsonObject, readJsonObject } from "../formats/json.ts";
import { type ModelFolder, openModelFolder } from "../formats/model-folder.ts";
import { writeModelFolder } from "../formats/model-folder-writer.ts";
import { type LoadedAdapter, readAdapter } from "../formats/peft.ts";
import { toSafetensorsDType } from "../formats/safetensors.ts";
import type { TensorToWrite } from "../formats/safetensors-writer.ts";
import { copySideFiles } from "../formats/side-files.ts";
import { stageFolder } from "../formats/staged-folder.ts";
import { attachLoadedAdapter } from "../models/adapter.ts";
import { vocabularyOf } from "../models/adapter-plan.ts";
import { hasBlocks } from "../models/block-weights.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { weightSpecs } from "../models/decoder-weights.ts";
import { denseSource, fourBitView } from "../models/dense-source.ts";
import { otherTowers, readFolderConfig } from "../models/folder-config.ts";
import { loadDecoder, type WeightSource } from "../models/load-model.ts";
import { resizedSource } from "../models/resized-source.ts";
import { type StoredPart, storedParts } from "../models/stored-parts.ts";
import { withTextValues } from "../models/text-tower.ts";
import { isQuantizer, quantizerNames } from "../quant/index.ts";
import { decodeToF32, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { type OpenedText, openText } from "../text/open-text.ts";
import { UserError } from "../util/errors.ts";
import {
  adapterFiles,
  filePart,
  modelFiles,
  modelPart,
  partOf,
  REPORT_FILES,
  sealedRecord,
} from "./chain.ts";
import {
  type Comparison,
  compareLogits,
  cutSamples,
  type SampleLogits,
  sampleLogits,
} from "./merge-receipt.ts";
import { type MergedSource, mergedSource } from "./merged-source.ts";
import { sampleTexts } from "./sample-text.ts";
import { writeTextIntoModel } from "./text-files.ts";

export type MergeDType = "f32" | "f16" | "bf16";

export interface MergeOptions {
  /** Folders. `base` is the original of a `model` that is stored in 4 bits. */
  readonly model: string;
  readonly base?: string;
  /** What they are called by who gave them; their folders when absent. */
  readonly named?: { readonly model: string; readonly base?: string };
  readonly adapter: string;
  /** In place of the adapter's template and the model's. */
  readonly chatTemplate?: string;
  readonly out: string;
  readonly dtype: MergeDType | "auto";
  readonly sampleData?: string;
  readonly sampleTokens: number;
  readonly maxKl: number;
  readonly maxKlQuantized: number;
  readonly force: boolean;
}

export interface MergeReport {
  readonly model: string;
  readonly base?: string;
  readonly adapter: string;
  readonly dtype: MergeDType;
  readonly mergedWeights: number;
  readonly sample: string;
  readonly comparisons: readonly Comparison[];
  readonly passed: boolean;
  readonly forced: boolean;
}

export const REPORT_FILE = REPORT_FILES.merge;

/** Longest sequence of the receipt's sample text. */
const longestSample = 256;
const pieceElements = 4 * 2 ** 20;

/** Merges. UserError when the merged model is further from the trained one than allowed; the report is left in `out`. */
export async function mergeFolder(
  backend: Backend,
  options: MergeOptions,
  hooks: { readonly note?: (message: string) => void; readonly warn?: (message: string) => void } = {},
): Promise<MergeReport> {
  const staged = await stageFolder(options.out);
  const opened: ModelFolder[] = [];
  const open = async (path: string): Promise<ModelFolder> => {
    const folder = await openModelFolder(path);
    opened.push(folder);
    return folder;
  };
  try {
    const adapter = await readAdapter(options.adapter);
    const trainedOn = await open(options.model);
    const base = options.base === undefined ? trainedOn : await open(options.base);
    const config = await readFolderConfig(base);
    for (const note of config.notes) hooks.warn?.(`${base.path}: ${note}`);
    const source = denseSource(base, config);
    const trained = denseSource(trainedOn, base === trainedOn ? config : await readFolderConfig(trainedOn));
    if (source.quantizedNames.size > 0) {
      hooks.warn?.(
        options.base === undefined
          ? "the base is stored in 4 bits: merging into its dequantised weights, which keeps their rounding; give the original model with --base to merge into that"
          : `${options.base} is stored in 4 bits too; --base should be the original, full-precision model`,
      );
    }
    const { model, chatTemplate } = options;
    const text = await openText({ model, adapter: options.adapter, chatTemplate });
    for (const message of text.notes) hooks.note?.(message);
    const samples = cutSamples(await samplesOf(text, options.sampleData), {
      tokens: options.sampleTokens,
      longest: Math.min(longestSample, config.maxPositions),
      vocabularySize: config.vocabularySize,
    });
    if (samples.length === 0) throw new UserError("--sample-data: it has no text to compare the models on");

    // Every model of the comparison has the adapter's vocabulary.
    const wanted = { ...config, vocabularySize: vocabularyOf(config, adapter) };
    if (text.tokenizer.vocabSize > wanted.vocabularySize) {
      throw new UserError(
        `${text.tokenizerFolder}: the tokenizer has ${text.tokenizer.vocabSize} tokens, but embedding and head only ${wanted.vocabularySize} rows; they do not belong together`,
      );
    }
    const resized = (from: WeightSource) => resizedSource(from, config.vocabularySize, wanted.vocabularySize);
    const references = await referencesOf(options, config, source, trained);
    const held: { name: string; bound: number; logits: SampleLogits }[] = [];
    for (const { name, bound, from } of references) {
      hooks.note?.(`reading ${samples.flat().length} tokens with the ${name}`);
      held.push({ name, bound, logits: await logitsOf(backend, wanted, resized(from), samples, adapter) });
    }

    const merged = mergedSource(backend, source, config, adapter);
    const dtype =
      options.dtype !== "auto" ? options.dtype : hasBlocks(base) ? "bf16" : storedDType(config, source);
    await writeModelFolder(staged.path, {
      config: mergedConfig(base.config, merged, dtype),
      configLike: base.config,
      tensors: [...tensorsOf(merged, dtype, base), ...otherTowers(base, config)],
    });
    await copySideFiles(options.model, staged.path);
    await writeTextIntoModel(text, staged.path);

    const result = await open(staged.path);
    const resultConfig = await readFolderConfig(result);
    const logits = await logitsOf(backend, resultConfig, denseSource(result, resultConfig), samples);
    const comparisons = held.map((reference) =>
      compareLogits(reference.name, samples, reference.logits, logits, reference.bound),
    );
    const passed = comparisons.every((comparison) => comparison.passed);
    const report: MergeReport = {
      model: (options.named ?? options).model,
      base: (options.named ?? options).base,
      adapter: options.adapter,
      dtype,
      mergedWeights: merged.changed.size,
      sample: options.sampleData ?? "built-in text",
      comparisons,
      passed,
      forced: !passed && options.force,
    };
    const made = await modelFiles(result);
    await result.close();
    opened.pop();
    const sources = [
      await modelPart("model", options.model, trainedOn),
      ...(base === trainedOn ? [] : [await modelPart("base", options.base!, base)]),
      await partOf("adapter", options.adapter, options.adapter, await adapterFiles(options.adapter)),
      ...(await filePart("template", options.chatTemplate)),
      ...(await filePart("sample-data", options.sampleData)),
    ];
    const outputs = [await partOf("result", ".", staged.path, made.names, true)];
    const receipt = sealedRecord(report, { made: "merge", sources, outputs });
    if (!passed && !options.force) {
      await writeFileAtomic(`${options.out}/${REPORT_FILE}`, receipt);
      throw new UserError(refusal(report, options.out));
    }
    await writeFileAtomic(`${staged.path}/${REPORT_FILE}`, receipt);
    await staged.publish();
    return report;
  } finally {
    for (const folder of opened) await folder.close();
    await staged.discard();
  }
}

/** Which trained model the merged one is held against: the adapter on the dense base, on the 4-bit base, or both. */
async function referencesOf(
  options: MergeOptions,
  config: DecoderConfig,
  base: WeightSource,
  trained: ReturnType<typeof denseSource>,
): Promise<{ name: string; bound: number; from: WeightSource }[]> {
  const onBase = { name: "adapter on base", bound: options.maxKl, from: base };
  const fourBit = { name: "adapter on 4-bit base", bound: options.maxKlQuantized };
  if (trained.quantizedNames.size > 0) {
    if (options.base === undefined) return [{ ...onBase, name: fourBit.name }];
    return [onBase, { ...fourBit, from: trained }];
  }
  const { method, quantType = "nf4" } = await trainedOptions(options.adapter);
  if (method !== "qlora") return [onBase];
  if (!isQuantizer(quantType))
    throw new UserError(
      `${options.adapter}/run.json: the quantiser ${JSON.stringify(quantType)} is none of ${quantizerNames.join(", ")}; correct its "quantType"`,
    );
  return [onBase, { ...fourBit, from: fourBitView(base, config, quantType) }];
}

/** The options in the run.json that training leaves beside an adapter; none where there is no such file. */
async function trainedOptions(adapter: string): Promise<{ method?: unknown; quantType?: unknown }> {
  const file = await openFile(`${adapter}/run.json`).catch(() => undefined);
  if (!file) return {};
  try {
    const { options } = await readJsonObject(file, 16 << 20);
    return isJsonObject(options) ? options : {};
  } finally {
    await file.close();
  }
}

async function logitsOf(
  backend: Backend,
  config: DecoderConfig,
  source: WeightSource,
  samples: readonly number[][],
  adapter?: LoadedAdapter,
): Promise<SampleLogits> {
  const loaded = await loadDecoder(backend, config, source);
  try {
    const attached = adapter && attachLoadedAdapter(loaded, adapter, { trains: false });
    const logits = await sampleLogits(loaded.decoder, samples);
    attached?.free();
    return logits;
  } finally {
    loaded.free();
  }
}

async function samplesOf({ tokenizer, template }: OpenedText, path: string | undefined): Promise<number[][]> {
  if (path === undefined) return sampleTexts.map((text) => beginText(tokenizer, text));
  const rendering = { tokenizer, template };
  return toExamples(await readRows(path)).rows.map(({ example }) => [
    ...renderExample(example, rendering).ids,
  ]);
}

/** What most of the base's linear weights are stored in; bf16 where that is 4 bits. */
function storedDType(config: DecoderConfig, source: ReturnType<typeof denseSource>): MergeDType {
  if (source.quantizedNames.size > 0) return "bf16";
  const linear = weightSpecs(config).find((spec) => spec.kind === "linear");
  const dtype = linear && source.find(linear.name)?.dtype;
  return dtype === "f16" || dtype === "bf16" ? dtype : "f32";
}

const torchNames: Record<MergeDType, string> = { f32: "float32", f16: "float16", bf16: "bfloat16" };

function mergedConfig(json: JsonObject, merged: MergedSource, dtype: MergeDType): JsonObject {
  const { quantization_config: _, ...rest } = json;
  const key = "dtype" in json ? "dtype" : "torch_dtype";
  const sized = withTextValues(rest, {
    vocab_size: merged.config.vocabularySize,
    tie_word_embeddings: merged.config.tied,
  });
  return { ...sized, [key]: torchNames[dtype] };
}

function tensorsOf(merged: MergedSource, dtype: MergeDType, base: ModelFolder): TensorToWrite[] {
  return weightSpecs(merged.config).flatMap((spec) =>
    storedParts(base, merged.config, spec).map((part) => ({
      ...{ name: part.name, shape: part.shape, dtype: toSafetensorsDType(dtype) },
      data: () => piecesOf(merged, spec.name, dtype, part),
    })),
  );
}

async function* piecesOf(
  merged: MergedSource,
  name: string,
  dtype: MergeDType,
  { pieces, arrange }: StoredPart,
): AsyncGenerator<Uint8Array> {
  const found = merged.find(name);
  if (!found) throw new UserError(`${merged.path}: tensor "${name}" is missing; config.json asks for it`);
  const size = dtypeBytes[found.dtype];
  const row = found.shape.at(-1)!;
  const step = Math.max(1, Math.floor(pieceElements / row)) * row;
  // What is brought into another order is read whole.
  const stretches = pieces.flatMap(({ offset, count }) => {
    const most = arrange ? count : step;
    return Array.from({ length: Math.ceil(count / most) }, (_, i) => ({
      start: offset + i * most,
      count: Math.min(most, count - i * most),
    }));
  });
  for (const { start, count } of stretches) {
    const bytes = await merged.read(name, start * size, count * size);
    if (found.dtype === dtype && !arrange) {
      yield bytes;
      continue;
    }
    const read = decodeToF32(bytes, found.dtype);
    const values = arrange ? arrange(read) : read;
    if (dtype === "f16" && values.some((value) => Math.abs(value) >= 65520)) {
      throw new UserError(`"${name}" holds values beyond what f16 can; use --dtype bf16 or f32`);
    }
    yield encodeFrom(values, dtype);
  }
}

function refusal(report: MergeReport, out: string): string {
  const worst = report.comparisons.filter((comparison) => !comparison.passed);
  const told = worst.map(
    ({ reference, meanKl, bound }) =>
      `its mean KL divergence from the ${reference} is ${meanKl.toPrecision(3)}, above ${bound}`,
  );
  return `the merged model differs too much from the trained one: ${told.join("; ")}. It was not kept; the figures are in ${out}/${REPORT_FILE}. Check that the base is the adapter's own, try another --dtype, raise --max-kl, or keep it anyway with --force`;
}
