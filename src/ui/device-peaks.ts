// Peaks of this machine's devices, measured once and kept in lowrank's cache. Measuring is view-peak.ts's.

import { join } from "node:path";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import { cacheFolder } from "../formats/cache-folder.ts";
import type { MachinePeak } from "./api.ts";
import { numberIn, objectIn, readJsonObject, textIn } from "./run-record-file.ts";

const capBytes = 64 * 1024;
const mostPeaks = 64;

export class DevicePeaks {
  private peaks: readonly MachinePeak[] = [];

  private constructor(private readonly path: string | undefined) {}

  static async open(): Promise<DevicePeaks> {
    const folder = cacheFolder();
    const found = new DevicePeaks(folder === undefined ? undefined : join(folder, "device-peaks.json"));
    const read = found.path === undefined ? undefined : await readJsonObject(found.path, capBytes);
    const list = Array.isArray(read?.value.peaks) ? read.value.peaks : [];
    found.peaks = list.slice(0, mostPeaks).flatMap(peakIn);
    return found;
  }

  /** Of a device, by its own words; of any, the one measured last. */
  of(device?: string): MachinePeak | undefined {
    return this.peaks.findLast((peak) => device === undefined || peak.device === device);
  }

  /** Keeps a measurement in place of an earlier one. That the cache cannot be written costs a measurement later. */
  async keep(peak: MachinePeak): Promise<void> {
    const others = this.peaks.filter(({ device }) => device !== peak.device);
    this.peaks = [...others, peak].slice(-mostPeaks);
    if (this.path === undefined) return;
    await writeFileAtomic(this.path, `${JSON.stringify({ peaks: this.peaks }, null, 1)}\n`).catch(() => {});
  }
}

function peakIn(given: unknown): MachinePeak[] {
  const peak = objectIn(given);
  const [device, precision] = [textIn(peak?.device), textIn(peak?.precision)];
  const [flopsPerSecond, measuredMs] = [numberIn(peak?.flopsPerSecond), numberIn(peak?.measuredMs)];
  if (device === undefined || precision === undefined || measuredMs === undefined) return [];
  return flopsPerSecond !== undefined && flopsPerSecond > 0
    ? [{ device, precision, flopsPerSecond, measuredMs }]
    : [];
}
