// Which adapter of which WebGPU. A browser has one; Dawn under Windows is Direct3D 12 unless asked otherwise, and has tensor
// cores through Vulkan alone, so there both are looked at. Not here: what an adapter offers (device.ts), Dawn (dawn.ts).

import { type DawnOptions, defaultOptions, findGpu } from "./dawn.ts";
import { isSoftware, matrixShape } from "./device.ts";

const noAdapter =
  "WebGPU found no graphics adapter; it needs a GPU's driver with Vulkan, Metal or Direct3D 12: install the driver (on Linux also the Vulkan loader, libvulkan1), or use --backend cpu";

export type FoundAdapter =
  | { readonly adapter: GPUAdapter; readonly reason?: undefined }
  | { readonly adapter?: undefined; readonly reason: string };

/** The adapter of this machine, or why there is none. */
export async function lookForAdapter(dawn?: DawnOptions): Promise<FoundAdapter> {
  let reason = noAdapter;
  const ask = async (options: DawnOptions) => {
    const found = await findGpu(options);
    if (!found.gpu) {
      reason = found.reason;
      return null;
    }
    return found.gpu.requestAdapter({ powerPreference: "high-performance" });
  };
  const ways = dawn ? [dawn] : dawnWays(globalThis.process?.platform);
  const adapter = await firstAdapter(ways, ask);
  return adapter ? { adapter } : { reason };
}

/** Dawn's options to try on a platform. */
export function dawnWays(platform: string | undefined): readonly DawnOptions[] {
  return platform === "win32"
    ? [[...defaultOptions(), "backend=vulkan"], defaultOptions()]
    : [defaultOptions()];
}

/** The first way's adapter that has subgroup matrices for products; else the last real one, else the last of any kind. */
export async function firstAdapter<Way>(
  ways: readonly Way[],
  ask: (way: Way) => Promise<GPUAdapter | null>,
): Promise<GPUAdapter | undefined> {
  const found: GPUAdapter[] = [];
  for (const way of ways) {
    const adapter = await ask(way);
    if (!adapter) continue;
    if (matrixShape(adapter) && !isSoftware(adapter)) return adapter;
    found.push(adapter);
  }
  return found.findLast((adapter) => !isSoftware(adapter)) ?? found.at(-1);
}
