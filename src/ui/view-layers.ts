// What training has changed in each layer: how large the update is, absolutely and against the weight, and its spectrum.
// Of the result, or of a checkpoint. In the analysing process only; the mathematics is plan/'s.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { locateModel } from "../formats/locate-model.ts";
import { type ModelFolder, openModelFolder } from "../formats/model-folder.ts";
import { fromSafetensorsDType } from "../formats/safetensors.ts";
import { adapterSpectra, differenceSpectra, type ModuleSpectrum } from "../plan/update-spectra.ts";
import { decodeToF32 } from "../tensor/dtype.ts";
import type { LayersView } from "./api.ts";
import { notShown, optionsOf, type RunJob, savedPlace } from "./open-run.ts";

export interface LayersJob extends RunJob {
  /** A checkpoint's step; the newest that there is when absent. */
  readonly at?: number;
}

const mostValues = 64;
/** Weights of larger models are not read for the sake of a ratio. */
const mostWeightBytes = 4e9;

export async function viewLayers(job: LayersJob): Promise<LayersView> {
  const options = optionsOf(job);
  const full = options.method === "full";
  const place = await placeOf(job, full);
  const base = locateModel(options.model);
  const found = full ? await differenceSpectra(base, place.path, () => {}) : await adapterSpectra(place.path);
  const norms = full
    ? undefined
    : await weightNorms(
        base,
        found.modules.map(({ name }) => name),
      );
  return {
    step: place.step,
    modules: found.modules.map((module) => moduleView(module, norms)),
    unchanged: found.unchanged,
  };
}

async function placeOf(
  job: LayersJob,
  full: boolean,
): Promise<{ readonly path: string; readonly step: number | "result" }> {
  if (job.at !== undefined) {
    const path = join(job.folder, "checkpoints", `step-${job.at}`);
    if (full || !existsSync(join(path, "adapter_config.json")))
      throw notShown(`there is no checkpoint of step ${job.at} that holds an adapter`);
    return { path, step: job.at };
  }
  const saved = await savedPlace(job, full);
  if (!saved)
    throw notShown(
      full
        ? "full fine-tuning is looked at when the run has ended: its checkpoints hold no model"
        : "the run has saved nothing yet",
    );
  return { path: saved.path, step: saved.path === job.folder ? "result" : saved.step };
}

function moduleView(
  { name, shape, relativeSize, spectrum }: ModuleSpectrum,
  norms: ReadonlyMap<string, number> | undefined,
): LayersView["modules"][number] {
  const layer = /\.layers\.(\d+)\./.exec(name)?.[1];
  const norm = Math.sqrt(spectrum.energy);
  const weight = norms?.get(name);
  const relative = relativeSize ?? (weight ? norm / weight : undefined);
  return {
    name,
    ...(layer !== undefined && { layer: Number(layer) }),
    target: name.split(".").at(-1)!,
    shape,
    norm,
    ...(relative !== undefined && { relativeSize: relative }),
    singularValues: [...spectrum.singularValues.subarray(0, mostValues)],
    rank90: spectrum.ranks[0.9] ?? null,
    rank95: spectrum.ranks[0.95] ?? null,
    rank99: spectrum.ranks[0.99] ?? null,
    effectiveRank: spectrum.effectiveRank,
  };
}

/** Frobenius norms of the base's weights, of those that lie in its files as they are. */
async function weightNorms(path: string, modules: readonly string[]): Promise<ReadonlyMap<string, number>> {
  const norms = new Map<string, number>();
  const folder = await openModelFolder(path);
  try {
    const total = [...folder.tensors.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    if (total > mostWeightBytes) return norms;
    for (const module of modules) {
      const norm = await normOf(folder, `${module}.weight`);
      if (norm !== undefined) norms.set(module, norm);
    }
  } finally {
    await folder.close();
  }
  return norms;
}

async function normOf(folder: ModelFolder, name: string): Promise<number | undefined> {
  const entry = folder.tensors.get(name);
  const dtype = entry && fromSafetensorsDType(entry.dtype);
  if (dtype !== "f32" && dtype !== "bf16" && dtype !== "f16") return undefined;
  let energy = 0;
  for (const value of decodeToF32(await folder.read(name), dtype)) energy += value * value;
  return Math.sqrt(energy);
}
