// The CUDA backend opens here: NVIDIA cards through the display driver alone, whose library the addon opens when it is
// asked to; kernels are PTX in the package (native/cuda/). This file says whether there is a card and why not; cuda/ has
// memory, launches and kernels, cuda/device.ts first.

import { UserError } from "../util/errors.ts";
import type { Backend, BackendFactory, BackendOptions } from "./backend.ts";
import { loadNativeAddon } from "./cpu/addon.node.ts";
import type { CudaAddon, CudaCard, CudaProbe } from "./cuda/addon.ts";
import { openCard } from "./cuda/device.ts";
import { chosenLibrary, readPtx } from "./cuda/files.node.ts";
import type { ProductOptions } from "./cuda/product-choices.ts";
import { openTuning, tunedCard } from "./cuda/product-tuning.ts";
import { openTuningFile } from "./webgpu/tuning-file.node.ts";

/** PTX 8.4, which the kernels are, is read by drivers of CUDA 12.4 and later; compute capability 8.0 has what they use. */
const leastDriver = 12_040;
const leastCompute = 8;

const [noAddon, noDriver] = ["it needs the native addon", "there is no NVIDIA driver here"];

let whyNot = "";

/** The addon's face of the driver and what it found; undefined where there is none or no card that will do: reason() says why. */
function findCard(): { addon: CudaAddon; probe: CudaProbe; index: number; card: CudaCard } | undefined {
  let addon: CudaAddon;
  try {
    addon = loadNativeAddon().cuda;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    whyNot = `${noAddon}: ${error.message}`;
    return undefined;
  }
  const probe = addon.probe(chosenLibrary());
  const index = probe.cards.findIndex((card) => card.computeMajor >= leastCompute && card.mapsMemory);
  whyNot = problemOf(probe, index);
  return whyNot === "" ? { addon, probe, index, card: probe.cards[index]! } : undefined;
}

/** One sentence; empty when the card at `index` will do. */
function problemOf({ problem, driverVersion, cards }: CudaProbe, index: number): string {
  if (problem === "absent")
    return `${noDriver} (libcuda.so.1, nvcuda.dll on Windows): install the display driver, or use --backend webgpu or cpu`;
  if (problem.startsWith("symbol "))
    return `this NVIDIA driver is too old, it lacks ${problem.slice(7)}: install version 550 or later, or use --backend webgpu`;
  if (problem.startsWith("init "))
    return `the NVIDIA driver does not start (error ${problem.slice(5)}; 100 is no card, 999 often a driver that was updated without a restart): \`nvidia-smi\` says more, or use --backend webgpu or cpu`;
  if (cards.length === 0)
    return "the NVIDIA driver finds no card (CUDA_VISIBLE_DEVICES may hide it): use --backend webgpu or cpu";
  if (driverVersion < leastDriver)
    return `this NVIDIA driver is too old (CUDA ${versionText(driverVersion)}, and ${versionText(leastDriver)} is needed): install version 550 or later, or use --backend webgpu`;
  if (index < 0) {
    const list = cards.map((card) => `${card.name} (${card.computeMajor}.${card.computeMinor})`).join(", ");
    return `no card here has compute capability 8.0 or higher (RTX 30, A100 and later): ${list}; use --backend webgpu`;
  }
  return "";
}

/** 12040 -> "12.4". */
function versionText(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

/** Whether this machine has a card that the backend runs on; the emulator does not count. */
export function hasCard(): boolean {
  const found = findCard();
  return found !== undefined && !found.probe.emulated;
}

export interface CudaOptions extends BackendOptions {
  /** How products are made, in place of what was measured on this card. */
  readonly products?: ProductOptions;
}

/** Opens the backend on the first card that will do; null when there is none. UserError when it cannot do what is asked. */
export async function openCuda({
  precision: asked = "auto",
  products,
}: CudaOptions): Promise<Backend | null> {
  const found = findCard();
  if (!found) return null;
  if (asked === "fp16")
    throw new UserError(
      'precision "fp16" is not available on the CUDA backend; use "bf16", "fp32" or "auto"',
    );
  const { addon, probe, index, card } = found;
  const { emulated } = probe;
  const precision = asked === "auto" ? "bf16" : asked;
  return openCard({
    ...{ addon, index, card, emulated, precision },
    products: products ?? (emulated ? undefined : await tunedProducts(card)),
    description: `${card.name}, ${precision} products${emulated ? ", in software" : ""}`,
    ptxOf: emulated ? () => "" : readPtx,
  });
}

/** What is known of this card's products, and measures the rest. */
async function tunedProducts(card: CudaCard): Promise<ProductOptions | undefined> {
  const store = await openTuningFile("cuda-products.json");
  return store && openTuning(tunedCard(card), store);
}

/** A word on why "auto" took another backend: for a GPU whatever the reason, for the CPU only where there is a driver. */
export function whyNoCard(tookGpu: boolean): string {
  if (whyNot.startsWith(noDriver)) return tookGpu ? "CUDA has no NVIDIA driver here" : "";
  return whyNot === "" || whyNot.startsWith(noAddon) ? "" : `not CUDA: ${whyNot.split(/[:;]/)[0]}`;
}

export const cuda: BackendFactory = {
  name: "cuda",
  open: (options) => openCuda(options),
  reason: () => whyNot,
};

export interface CudaDescription {
  readonly driverVersion: string;
  readonly emulated: boolean;
  /** Why the backend does not run here; empty when it does. */
  readonly problem: string;
  readonly cards: readonly CudaCard[];
}

/** What this machine offers the CUDA backend, for people. */
export function describeCuda(): CudaDescription {
  const found = findCard();
  if (!found && whyNot.startsWith(noAddon))
    return { driverVersion: "", emulated: false, problem: whyNot, cards: [] };
  const probe = found?.probe ?? loadNativeAddon().cuda.probe(chosenLibrary());
  return {
    driverVersion: probe.driverVersion > 0 ? versionText(probe.driverVersion) : "",
    emulated: probe.emulated,
    problem: whyNot,
    cards: probe.cards,
  };
}
