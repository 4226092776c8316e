// merge(), exportGguf() and quantize(): what leaves lowrank, with its receipts. Each opens its device and closes it.
// The work is publish/'s; the command line prints what these return.

import type { Backend } from "../backend/backend.ts";
import { type BackendName, openBackend } from "../backend/index.ts";
import type { InputOf, OptionsDefinition } from "../config/define.ts";
import { exportDefinition } from "../config/export-options.ts";
import { mergeDefinition } from "../config/merge-options.ts";
import { quantizeDefinition } from "../config/quantize-options.ts";
import { resolveInput } from "../config/resolve.ts";
import { locateModel } from "../formats/locate-model.ts";
import { type ExportReport, exportGguf as writeGgufFile } from "../publish/export-gguf.ts";
import { type GgufReceipt, ggufReceipt, type ReceiptOptions } from "../publish/gguf-receipt.ts";
import { type MergeReport, mergeFolder } from "../publish/merge-folder.ts";
import { type FolderReport, quantizeFolder } from "../publish/quantize-folder.ts";
import { fetchOptions } from "./fetch-options.ts";

export interface Hooks {
  readonly onWarning?: (message: string) => void;
  readonly onNote?: (message: string) => void;
}

/** The options of `lowrank merge` in camelCase. */
export type MergeInput = Omit<InputOf<typeof mergeDefinition>, "json"> & Hooks;
/** The options of `lowrank export` in camelCase. */
export type ExportInput = Omit<InputOf<typeof exportDefinition>, "json"> & Hooks;
/** The options of `lowrank quantize` in camelCase. */
export type QuantizeInput = Omit<InputOf<typeof quantizeDefinition>, "json"> &
  Hooks & { readonly onProgress?: (done: number, total: number, name: string) => void };

/** Adds an adapter to its base's weights; the receipt says how far what was written is from the adapter on its base. */
export async function merge({ onWarning, onNote, ...input }: MergeInput): Promise<MergeReport> {
  const options = resolveInput(mergeDefinition, input, "merge()");
  return mergeWith(options, { onWarning, onNote });
}

/** The same with options that are resolved already, whose models are here. */
export function mergeWith(options: MergeCommandOptions, hooks: Hooks): Promise<MergeReport> {
  return onDevice(mergeDefinition, options, hooks, (backend) => {
    const base = options.base === undefined ? undefined : locateModel(options.base);
    const model = locateModel(options.model);
    const tell = { note: hooks.onNote ?? ignore, warn: hooks.onWarning ?? ignore };
    return mergeFolder(backend, { ...options, model, base, named: options }, tell);
  });
}
type MergeCommandOptions = ReturnType<(typeof mergeDefinition)["finish"]>;

/** Writes a model, with an adapter merged in or not, or an adapter alone, as a GGUF file for llama.cpp. */
export async function exportGguf({ onWarning, onNote, ...input }: ExportInput): Promise<ExportReport> {
  return exportWith(resolveInput(exportDefinition, input, "exportGguf()"), { onWarning, onNote });
}

export function exportWith(
  options: ReturnType<(typeof exportDefinition)["finish"]>,
  hooks: Hooks,
): Promise<ExportReport> {
  return onDevice(exportDefinition, options, hooks, (backend) =>
    writeGgufFile(
      backend,
      { ...options, model: locateModel(options.model), modelName: options.model },
      hooks.onWarning,
      hooks.onNote,
    ),
  );
}

/** Reads a GGUF file back as a base is read, and holds it against what it was made of and against llama.cpp. */
export async function checkGgufWith(
  options: ReceiptOptions & { readonly backend: BackendName; readonly threads: number },
): Promise<GgufReceipt> {
  using backend = await openBackend(options.backend, { threads: options.threads, precision: "fp32" });
  return await ggufReceipt(backend, options);
}

/** Writes a model's linear layers in 4 bits, as a folder that bitsandbytes reads. */
export async function quantize({
  onWarning,
  onNote,
  onProgress,
  ...input
}: QuantizeInput): Promise<FolderReport> {
  return quantizeWith(
    resolveInput(quantizeDefinition, input, "quantize()"),
    { onWarning, onNote },
    onProgress,
  );
}

export function quantizeWith(
  options: ReturnType<(typeof quantizeDefinition)["finish"]>,
  hooks: Hooks,
  onProgress: QuantizeInput["onProgress"] = ignore,
): Promise<FolderReport> {
  return onDevice(quantizeDefinition, options, hooks, (backend) =>
    quantizeFolder(
      backend,
      { ...options, model: locateModel(options.model), modelName: options.model },
      onProgress,
    ),
  );
}

const ignore = () => {};

/** In fp32, whatever the arithmetic of the model: what leaves is computed as exactly as it can be. */
async function onDevice<Options extends { readonly backend: BackendName; readonly threads: number }, Result>(
  definition: OptionsDefinition<Options>,
  options: Readonly<Options>,
  { onWarning, onNote }: Hooks,
  use: (backend: Backend) => Promise<Result>,
): Promise<Result> {
  await fetchOptions(definition, options, { warn: onWarning, note: onNote });
  const { backend: name, threads } = options;
  using backend = await openBackend(name, { threads, precision: "fp32" });
  return await use(backend);
}
