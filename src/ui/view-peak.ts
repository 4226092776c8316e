// The rate of the engine's best products on this machine, measured as `lowrank bench` does. In the analysing process only.

import { openBackend } from "../backend/index.ts";
import type { MachinePeak } from "./api.ts";
import { notShown } from "./open-run.ts";

export async function viewPeak({
  backend: name,
  precision,
}: {
  readonly backend: string;
  readonly precision: "auto" | "fp32" | "bf16" | "fp16";
}): Promise<MachinePeak> {
  using backend = await openBackend(name, { precision });
  const gflops = await backend.peakGflops?.();
  if (gflops === undefined)
    throw notShown(`the peak of ${backend.description} cannot be measured: of the cpu backend it can`);
  return {
    device: backend.description,
    precision: backend.precision,
    flopsPerSecond: gflops * 1e9,
    measuredMs: Date.now(),
  };
}
