// One report over several: what quantisation does to a whole model, each tensor counted by its size.
// The report of one tensor is report.ts.

import type { Normality, QuantizationError, QuantizationReport } from "./report.ts";

/** A tensor's report and how many values it stands for: the report itself may come from a sample of them. */
export interface WeighedReport {
  readonly report: QuantizationReport;
  readonly values: number;
}

/** Means weighed by size; root mean squares over all values. Normality is the weighed mean of the tensors' own. */
export function combineReports(parts: readonly WeighedReport[]): QuantizationReport | undefined {
  const first = parts[0]?.report;
  if (!first) return undefined;
  const total = parts.reduce((sum, part) => sum + part.values, 0);
  const mean = (of: (report: QuantizationReport) => number) =>
    parts.reduce((sum, { report, values }) => sum + (of(report) * values) / total, 0);
  const errors: Record<string, QuantizationError> = {};
  for (const name of Object.keys(first.errors)) {
    const rms = Math.sqrt(mean((report) => report.errors[name]!.rms ** 2));
    const power = mean((report) => powerOf(report.errors[name]!));
    errors[name] = {
      meanAbsolute: mean((report) => report.errors[name]!.meanAbsolute),
      meanRelative: mean((report) => report.errors[name]!.meanRelative),
      rms,
      relativeRms: power > 0 ? rms / Math.sqrt(power) : 0,
    };
  }
  const normal = (key: keyof Normality) => mean((report) => report.normality[key]);
  return {
    count: total,
    blockSize: first.blockSize,
    errors,
    normality: {
      skewness: normal("skewness"),
      excessKurtosis: normal("excessKurtosis"),
      jarqueBeraPerValue: normal("jarqueBeraPerValue"),
      ksDistance: normal("ksDistance"),
    },
  };
}

/** Mean square of the weights themselves. */
function powerOf({ rms, relativeRms }: QuantizationError): number {
  return relativeRms > 0 ? (rms / relativeRms) ** 2 : 0;
}
