// Spectra of a whole model's update, module by module: of tuned - base, read one tensor at a time from two folders, or
// of an adapter's products. Then what all of it says together: how much rank 8 holds, and ranks for a next run. The
// spectrum of one matrix: spectrum.ts.

import { locateModel } from "../formats/locate-model.ts";
import { type ModelFolder, openModelFolder } from "../formats/model-folder.ts";
import { readAdapter } from "../formats/peft.ts";
import { fromSafetensorsDType } from "../formats/safetensors.ts";
import { adapterKind } from "../nn/adapter-kinds/index.ts";
import { decodeToF32 } from "../tensor/dtype.ts";
import { UserError } from "../util/errors.ts";
import {
  type EnergyShare,
  energyShares,
  proposeRanks,
  type RankProposal,
  type Spectrum,
  spectrumOfAdapter,
  spectrumOfMatrix,
} from "./spectrum.ts";

export interface ModuleSpectrum {
  /** Path of the module: model.layers.0.self_attn.q_proj. */
  readonly name: string;
  readonly shape: readonly [number, number];
  /** Root of the energy over that of the base weight; absent for an adapter alone. */
  readonly relativeSize?: number;
  readonly spectrum: Spectrum;
}

export interface UpdateSpectra {
  readonly kind: "difference" | "adapter";
  readonly modules: readonly ModuleSpectrum[];
  /** Matrices that did not change at all. */
  readonly unchanged: readonly string[];
}

/** Every matrix of two models of one shape, and its difference. `tell` hears each name before its work. */
export async function differenceSpectra(
  basePath: string,
  tunedPath: string,
  tell: (message: string) => void,
): Promise<UpdateSpectra> {
  const base = await openModelFolder(locateModel(basePath));
  try {
    const tuned = await openModelFolder(locateModel(tunedPath));
    try {
      return await compareFolders(base, tuned, tell);
    } finally {
      await tuned.close();
    }
  } finally {
    await base.close();
  }
}

async function compareFolders(
  base: ModelFolder,
  tuned: ModelFolder,
  tell: (message: string) => void,
): Promise<UpdateSpectra> {
  const modules: ModuleSpectrum[] = [];
  const unchanged: string[] = [];
  const names = [...base.tensors.keys()].filter((name) => base.tensors.get(name)!.shape.length === 2);
  for (const name of names.sort((a, b) => a.localeCompare(b, "en", { numeric: true }))) {
    const shape = base.tensors.get(name)!.shape as [number, number];
    const other = tuned.tensors.get(name)?.shape;
    if (!other || other[0] !== shape[0] || other[1] !== shape[1]) {
      throw new UserError(
        `${tuned.path}: tensor "${name}" ${other ? `has shape [${other}]` : "is missing"}, but ${base.path} has it with shape [${shape}]; the two are not one model before and after training`,
      );
    }
    tell(`${name} [${shape}]`);
    const before = await readMatrix(base, name);
    const update = await readMatrix(tuned, name);
    let baseEnergy = 0;
    for (let i = 0; i < before.length; i++) {
      baseEnergy += before[i]! * before[i]!;
      update[i]! -= before[i]!;
    }
    const module = name.replace(/\.weight$/, "");
    const spectrum = spectrumOfMatrix(update, shape[0], shape[1]);
    if (spectrum.energy === 0) unchanged.push(module);
    else
      modules.push({ name: module, shape, spectrum, relativeSize: Math.sqrt(spectrum.energy / baseEnergy) });
  }
  if (modules.length === 0)
    throw new UserError(
      `${tuned.path}: its weights equal those of ${base.path}; there is no update to look at`,
    );
  return { kind: "difference", modules, unchanged };
}

async function readMatrix(folder: ModelFolder, name: string): Promise<Float32Array> {
  const dtype = fromSafetensorsDType(folder.tensors.get(name)!.dtype);
  if (dtype !== "f32" && dtype !== "bf16" && dtype !== "f16" && dtype !== "f64") {
    throw new UserError(
      `${folder.path}: tensor "${name}" is stored as ${folder.tensors.get(name)!.dtype}; the spectrum of an update needs both models in F32, BF16 or F16`,
    );
  }
  return Float32Array.from(decodeToF32(await folder.read(name), dtype));
}

/** The update scale * B A of each module of an adapter folder. */
export async function adapterSpectra(path: string): Promise<UpdateSpectra> {
  const adapter = await readAdapter(path);
  if (adapterKind(adapter.config.kind).mergeRows) {
    throw new UserError(
      `${path}: a ${adapter.config.kind} adapter's update is not its factors' product alone; merge it (lowrank merge) and compare the two models`,
    );
  }
  const modules: ModuleSpectrum[] = [];
  const unchanged: string[] = [];
  for (const [name, { a, b }] of adapter.modules) {
    const { rank, scale } = adapter.settings.get(name)!;
    const shape: [number, number] = [b.shape[0]!, a.shape[1]!];
    const spectrum = spectrumOfAdapter(b.values, a.values, shape[0], rank, shape[1], scale);
    if (spectrum.energy === 0) unchanged.push(name);
    else modules.push({ name, shape, spectrum });
  }
  if (modules.length === 0)
    throw new UserError(`${path}: every B is zero, so the adapter changes nothing; was it trained?`);
  return { kind: "adapter", modules, unchanged };
}

export interface SpectraSummary {
  /** Share of all energy that rank r in every module holds. */
  readonly heldAtRank: Readonly<Record<string, number>>;
  /** Smallest rank that, given to every module, holds the share of all energy. */
  readonly ranks: Readonly<Record<EnergyShare, number | undefined>>;
  readonly rank8: { readonly enough: boolean; readonly held: number; readonly short: readonly string[] };
  readonly proposal: RankProposal;
}

const reportedRanks = [1, 2, 4, 8, 16, 32, 64, 128] as const;

/** What all modules say together. Embeddings and head count where they changed, but get no adapter. */
export function summarizeSpectra({ modules }: UpdateSpectra, share: number, maxRank: number): SpectraSummary {
  const total = modules.reduce((sum, { spectrum }) => sum + spectrum.energy, 0);
  const longest = Math.max(...modules.map(({ spectrum }) => spectrum.singularValues.length));
  const held: number[] = [];
  let sum = 0;
  for (let r = 0; r < longest; r++) {
    for (const { spectrum } of modules) sum += (spectrum.singularValues[r] ?? 0) ** 2;
    held.push(sum / total);
  }
  const at = (rank: number) => held[Math.min(rank, held.length) - 1]!;
  const rankOf = (wanted: number) => {
    const index = held.findIndex((value) => value >= wanted);
    return index < 0 ? undefined : index + 1;
  };
  const adaptable = modules.filter(({ name }) => /\.layers\.\d+\./.test(name));
  const short = adaptable.filter(({ spectrum }) => heldBy(spectrum, 8) < share).map(({ name }) => name);
  const layersTotal = adaptable.reduce((all, { spectrum }) => all + spectrum.energy, 0);
  const layersHeld = adaptable.reduce((all, { spectrum }) => all + heldBy(spectrum, 8) * spectrum.energy, 0);
  const rank8 = layersTotal > 0 ? layersHeld / layersTotal : at(8);
  return {
    heldAtRank: Object.fromEntries(
      reportedRanks.filter((rank) => rank < 2 * longest).map((rank) => [rank, at(rank)]),
    ),
    ranks: Object.fromEntries(
      energyShares.map((wanted) => [wanted, rankOf(wanted)]),
    ) as SpectraSummary["ranks"],
    rank8: { enough: rank8 >= share, held: rank8, short },
    proposal: proposeRanks(adaptable.length > 0 ? adaptable : modules, share, maxRank),
  };
}

/** Share of a module's energy that its first `rank` values hold. */
export function heldBy({ singularValues, energy }: Spectrum, rank: number): number {
  let sum = 0;
  for (const value of singularValues.subarray(0, rank)) sum += value * value;
  return energy > 0 ? sum / energy : 1;
}
