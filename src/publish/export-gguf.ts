// From folders to a GGUF file: a model, a model with an adapter merged in, or an adapter alone; beside it a Modelfile
// for Ollama. What goes into the file is gguf-model.ts, gguf-tokenizer.ts and gguf-adapter.ts.

import { realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, isAbsolute, relative, resolve } from "node:path";
import type { Backend } from "../backend/backend.ts";
import { removeLeftovers, writeFileAtomic, writeProblem } from "../formats/atomic-file.ts";
import { openFile } from "../formats/disk.ts";
import { ggufPlace } from "../formats/gguf-place.ts";
import { writeGguf } from "../formats/gguf-writer.ts";
import { type JsonObject, readJsonObject } from "../formats/json.ts";
import { type ModelFolder, openModelFolder } from "../formats/model-folder.ts";
import { claimOutputFile } from "../formats/output-file.ts";
import { readAdapter } from "../formats/peft.ts";
import { type AdapterPlan, planAdapter } from "../models/adapter-plan.ts";
import { hasBlocks } from "../models/block-weights.ts";
import { embeddingName, weightSpecs } from "../models/decoder-weights.ts";
import { denseSource } from "../models/dense-source.ts";
import { readFolderConfig } from "../models/folder-config.ts";
import { ggufArchitecture } from "../models/gguf/names.ts";
import type { WeightSource } from "../models/load-model.ts";
import { blockTypeOf } from "../quant/ggml/index.ts";
import { decodeToF32, dtypeBytes } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { type OpenedText, openText } from "../text/open-text.ts";
import { UsageError, UserError } from "../util/errors.ts";
import { adapterFiles, filePart, modelPart, partOf, receiptPlace, sealedRecord } from "./chain.ts";
import { ggufAdapter } from "./gguf-adapter.ts";
import { fileTypes, type GgufFileType } from "./gguf-mix.ts";
import { modelMetadata, modelTensors } from "./gguf-model.ts";
import { ggufModelName } from "./gguf-name.ts";
import { type GgufReceipt, ggufReceipt, receiptBounds, receiptProblems } from "./gguf-receipt.ts";
import { tokenizerMetadata } from "./gguf-tokenizer.ts";
import { importanceOf } from "./importance.ts";
import { mergedSource } from "./merged-source.ts";
import { ollamaModelfile } from "./ollama-modelfile.ts";

export interface ExportOptions {
  /** Folders. */
  readonly model: string;
  /** What the model is called by who gave it; its folder when absent. */
  readonly modelName?: string;
  readonly adapter?: string;
  /** In place of the adapter's template and the model's. */
  readonly chatTemplate?: string;
  readonly out: string;
  readonly type: GgufFileType | "auto";
  readonly adapterOnly: boolean;
  readonly modelfile: boolean;
  readonly preTokenizer?: string;
  /** Read the file back and hold it against what it was made of. */
  readonly receipt?: boolean;
  /** Mean KL divergence, in nats; by the type when absent. */
  readonly receiptBound?: number;
  /** Keep a file whose receipt is not good enough. */
  readonly force?: boolean;
  /** Rows of data, or an importance matrix of llama.cpp, by which errors of quantised weights count. */
  readonly importance?: string;
  /** Where the importance that was measured is written. */
  readonly writeImportance?: string;
}

export interface ExportReport {
  readonly out: string;
  readonly kind: "model" | "adapter";
  readonly type: GgufFileType;
  readonly tensors: number;
  readonly modelfile?: string;
  /** Absent for an adapter, and where the file was not read back. */
  readonly receipt?: GgufReceipt;
}

const tokenizerCapBytes = 256 * 2 ** 20;

/** Exports; one process at a time writes a file. */
export async function exportGguf(
  backend: Backend,
  options: ExportOptions,
  warn: (message: string) => void = () => {},
  note: (message: string) => void = () => {},
): Promise<ExportReport> {
  const lock = await claimOutputFile(options.out);
  try {
    return await exportLocked(backend, options, warn, note);
  } finally {
    lock.release();
  }
}

/** What is read must not be written over, nor one result by the other. */
async function refuseOwnInputs(
  { out, importance, writeImportance }: ExportOptions,
  files: ModelFolder["files"],
): Promise<void> {
  const place = (path: string) => realpath(path).catch(() => resolve(path));
  const read: readonly (readonly [what: string, path: string | undefined])[] = [
    ...files.map(({ source }) => ["the model", source.name] as const),
    ["what --importance names", importance],
  ];
  for (const [flag, path] of [
    ["--out", out],
    ["--write-importance", writeImportance],
  ] as const) {
    if (path === undefined) continue;
    const status = await stat(path).catch(() => undefined);
    if (status && !status.isFile())
      throw new UserError(`${flag} ${path}: this is no file that can be replaced`);
    for (const [what, other] of read) {
      if (other !== undefined && (await place(other)) === (await place(path)))
        throw new UserError(`${flag} ${path}: this is ${what}, which is read; give another file`);
    }
  }
  if (writeImportance !== undefined && (await place(writeImportance)) === (await place(out)))
    throw new UserError(`--write-importance ${writeImportance}: this is what --out names; give another file`);
}

async function exportLocked(
  backend: Backend,
  options: ExportOptions,
  warn: (message: string) => void,
  note: (message: string) => void,
): Promise<ExportReport> {
  const { model, out } = options;
  const name = lastPart(options.modelName ?? model)
    .replace(/@.*$/, "")
    .replace(/\.gguf$/i, "");
  const folder = await openModelFolder(model);
  try {
    await refuseOwnInputs(options, folder.files);
    const config = await readFolderConfig(folder);
    for (const note of config.notes) warn(`${model}: ${note}`);
    const base = denseSource(folder, config);
    const adapter = options.adapter === undefined ? undefined : await readAdapter(options.adapter);
    const { chatTemplate } = options;
    const opened = await openText({ model, adapter: options.adapter, chatTemplate });
    const { tokenizer } = opened;
    for (const message of opened.notes) note(message);
    let report: ExportReport;
    if (options.adapterOnly && adapter) {
      const type = options.type === "auto" ? "f32" : options.type;
      if (type !== "f32" && type !== "f16" && type !== "bf16")
        throw new UsageError(`--type ${type}: adapters are exported as f32, f16 or bf16`);
      const unchanged = await unchangedTensors(base, planAdapter(config, adapter));
      const { metadata, tensors } = ggufAdapter(config, adapter, {
        name: lastPart(options.adapter!),
        type,
        isUnchanged: (tensor) => unchanged.has(tensor),
      });
      await writeGguf(out, metadata, tensors);
      if (opened.templateFrom === "adapter" || opened.templateFrom === "flag") {
        warn(
          "a GGUF adapter holds no chat template: the Modelfile has this one; give it to llama.cpp with --chat-template-file",
        );
      }
      report = { out, kind: "adapter", type, tensors: tensors.length };
    } else {
      const isQuantized = base.quantizedNames.size > 0 || hasBlocks(folder);
      if (isQuantized && !blockTypeOf(fileTypes[options.type === "auto" ? "bf16" : options.type].of))
        warn(
          "the model is stored quantised: its dequantised weights are exported, which keep their rounding",
        );
      const merged = adapter && mergedSource(backend, base, config, adapter);
      const source = merged ?? base;
      const shape = merged?.config ?? config;
      const type =
        options.type !== "auto"
          ? options.type
          : hasBlocks(folder)
            ? "bf16"
            : storedType(base, weightSpecs(config)[0]!.name);
      const json = await readTokenizerJson(await tokenizerFolder(opened));
      const metadata = new Map([
        ...modelMetadata(shape, { name: ggufModelName(name, json), type, warn }),
        ...tokenizerMetadata({
          tokenizer,
          json,
          templates: opened.templates,
          vocabularySize: shape.vocabularySize,
          modelConfig: folder.config,
          bytesModel: ggufArchitecture(shape).tokenizer,
          preTokenizer: options.preTokenizer,
          warn,
        }),
      ]);
      const importance =
        options.importance === undefined
          ? undefined
          : await importanceOf(
              backend,
              {
                ...{ source: options.importance, model, adapter: options.adapter, chatTemplate },
                writeTo: options.writeImportance,
              },
              note,
            );
      const tensors = modelTensors(shape, source, type, importance);
      const checked = `${out.replace(/\.gguf$/i, "")}.unchecked.gguf`;
      // What an export that was killed left of the file to check.
      await removeLeftovers(checked).catch(() => {});
      await writeGguf(options.receipt ? checked : out, metadata, tensors);
      const receipt = options.receipt ? await checkedFile(backend, checked, options, type, warn) : undefined;
      report = { out, kind: "model", type, tensors: tensors.length, ...(receipt ? { receipt } : {}) };
    }
    if (!options.modelfile) {
      await writeReceipt(options, report, folder);
      return report;
    }
    const modelfile = `${out.replace(/\.gguf$/i, "")}.Modelfile`;
    const file = `./${lastPart(out)}`;
    const sources =
      report.kind === "adapter"
        ? { from: baseIn(dirname(out), folder) ?? name, adapter: file }
        : { from: file };
    await writeFileAtomic(modelfile, ollamaModelfile(sources, tokenizer, opened.template));
    report = { ...report, modelfile };
    await writeReceipt(options, report, folder);
    return report;
  } finally {
    await folder.close();
  }
}

/** The GGUF file that a model is, as a Modelfile in a folder names it. */
function baseIn(folder: string, { files }: ModelFolder): string | undefined {
  const path = files[0]?.source.name ?? "";
  if (!/\.gguf$/i.test(path)) return undefined;
  const way = relative(folder, path).replaceAll("\\", "/");
  return way.startsWith(".") || isAbsolute(way) ? way : `./${way}`;
}

/** What the file was made of, beside it. */
async function writeReceipt(
  options: ExportOptions,
  report: ExportReport,
  folder: ModelFolder,
): Promise<void> {
  const { model, adapter, chatTemplate, importance, out } = options;
  const sources = [
    await modelPart("model", model, folder),
    ...(adapter === undefined
      ? []
      : [await partOf("adapter", adapter, adapter, await adapterFiles(adapter))]),
    ...(await filePart("template", chatTemplate)),
    ...(await filePart("importance", importance)),
  ];
  const made = [out, ...(report.modelfile === undefined ? [] : [report.modelfile])].map((path) =>
    basename(path),
  );
  const outputs = [await partOf("result", ".", dirname(out), made, true)];
  const record = { file: basename(out), kind: report.kind, type: report.type, receipt: report.receipt };
  await writeFileAtomic(receiptPlace(out), sealedRecord(record, { made: "export", sources, outputs }));
}

/** Reads a written file back, and puts it in its place. UserError, and no file, where it is not what was exported. */
async function checkedFile(
  backend: Backend,
  file: string,
  { model, adapter, chatTemplate, out, force, receiptBound }: ExportOptions,
  type: GgufFileType,
  warn: (message: string) => void,
): Promise<GgufReceipt | undefined> {
  let receipt: GgufReceipt | undefined;
  try {
    const asked = { file, model, adapter, chatTemplate, bound: receiptBound ?? receiptBounds[type] };
    receipt = { ...(await ggufReceipt(backend, asked)), file: out };
  } catch (error) {
    if (!(error instanceof UserError)) {
      await rm(file, { force: true });
      throw error;
    }
    // What is not read from GGUF here, or what this machine cannot hold twice, is written all the same.
    warn(`the file was not read back: ${error.message.replaceAll(file, out)}`);
  } finally {
    // It stands there under a name that the file does not keep.
    const { folder, made } = ggufPlace(file);
    if (made) await rm(folder, { recursive: true, force: true });
  }
  if (receipt && !receipt.passed && !force) {
    await rm(file, { force: true });
    throw new UserError(
      `${out}: not written, for it is not what was exported: ${receiptProblems(receipt).join("; ")}. --force writes it in spite of that, another --type keeps more`,
    );
  }
  await rename(file, out).catch(async (error: unknown) => {
    await rm(file, { force: true });
    throw writeProblem(error, out);
  });
  return receipt;
}

/** Tensors of the base that an adapter's file holds as the base has them. */
async function unchangedTensors(base: WeightSource, plan: AdapterPlan): Promise<Set<string>> {
  const unchanged = new Set<string>();
  for (const [name, { shape, values }] of plan.fixed) {
    const own = base.find(name) ? name : `${embeddingName}.weight`; // a tied head has no tensor of its own
    const found = base.find(own);
    if (!found || elementCount(found.shape) !== elementCount(shape)) continue;
    const size = values.length * dtypeBytes[found.dtype];
    const stored = decodeToF32(await base.read(own, 0, size), found.dtype);
    if (values.every((value, i) => value === stored[i])) unchanged.add(name);
  }
  return unchanged;
}

/** An adapter may bring settings of a tokenizer without its tokenizer.json. */
async function tokenizerFolder({ tokenizerFrom, sources }: OpenedText): Promise<string> {
  const { adapter, model } = sources;
  if (tokenizerFrom !== "adapter" || adapter === undefined) return model;
  const file = await openFile(`${adapter}/tokenizer.json`).catch(() => undefined);
  await file?.close();
  return file ? adapter : model;
}

async function readTokenizerJson(model: string): Promise<JsonObject> {
  const file = await openFile(`${model}/tokenizer.json`);
  try {
    return await readJsonObject(file, tokenizerCapBytes);
  } finally {
    await file.close();
  }
}

function storedType(source: WeightSource, name: string): GgufFileType {
  const dtype = source.find(name)?.dtype;
  return dtype === "f16" || dtype === "bf16" ? dtype : "f32";
}

function lastPart(path: string): string {
  return (
    path
      .replace(/[\\/]+$/, "")
      .split(/[\\/]/)
      .at(-1) || path
  );
}
