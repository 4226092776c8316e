// The loss curve as text. Not here: where the numbers come from (train/events.ts) or who prints it (train.ts).

import plot from "simple-ascii-chart";
import { formatLoss } from "./format.ts";

export interface Point {
  readonly step: number;
  readonly loss: number;
}

/** A curve `columns` wide; undefined where there are too few points to draw. */
export function lossPlot(points: readonly Point[], columns: number): string | undefined {
  const finite = points.filter(({ loss }) => Number.isFinite(loss));
  if (finite.length < 2) return undefined;
  const width = Math.max(20, Math.min(72, columns - 12));
  const means = averaged(finite, width);
  if (means.length < 2) return undefined;
  const losses = means.map(({ loss }) => loss);
  const low = Math.min(...losses);
  const high = Math.max(...losses);
  // A flat line has no range to draw.
  if (high - low < 1e-9 * Math.max(1, Math.abs(high))) return undefined;
  const text = plot(
    means.map(({ step, loss }): [number, number] => [step, loss]),
    {
      width,
      height: 10,
      title: "loss by step",
      formatter: (value, { axis }) => (axis === "y" ? formatLoss(value) : Math.round(value)),
      customYAxisTicks: [low, (low + high) / 2, high],
      customXAxisTicks: [means[0]!.step, means[means.length - 1]!.step],
    },
  );
  return trimmed(text);
}

/** The smoothed loss of a sweep by the logarithm of its rate; undefined where there is too little to draw. */
export function ratePlot(
  curve: readonly { readonly learningRate: number; readonly smoothed: number }[],
  columns: number,
): string | undefined {
  if (curve.length < 2) return undefined;
  const losses = curve.map(({ smoothed }) => smoothed);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  if (high - low < 1e-9 * Math.max(1, Math.abs(high))) return undefined;
  const decades = curve.map(({ learningRate }) => Math.log10(learningRate));
  const [first, last] = [decades[0]!, decades.at(-1)!];
  const between = Array.from({ length: 20 }, (_, i) => Math.ceil(first) + i).filter((tick) => tick <= last);
  return trimmed(
    plot(
      curve.map(({ smoothed }, i): [number, number] => [decades[i]!, smoothed]),
      {
        ...{ width: Math.max(20, Math.min(72, columns - 12)), height: 10, title: "loss by learning rate" },
        formatter: (value, { axis }) => (axis === "y" ? formatLoss(value) : `1e${Math.round(value)}`),
        customYAxisTicks: [low, (low + high) / 2, high],
        customXAxisTicks: between,
      },
    ),
  );
}

function trimmed(text: string): string {
  return text
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n")
    .replace(/^\n+|\n+$/g, "");
}

/** At most `count` points: each the mean of its share of neighbours, so that noise does not hide the course. */
function averaged(points: readonly Point[], count: number): Point[] {
  if (points.length <= count) return [...points];
  return Array.from({ length: count }, (_, bin) => {
    const share = points.slice(
      Math.floor((bin * points.length) / count),
      Math.floor(((bin + 1) * points.length) / count),
    );
    const mean = share.reduce((sum, { loss }) => sum + loss, 0) / share.length;
    return { step: share[share.length - 1]!.step, loss: mean };
  });
}

/** Share of an update's energy by rank, [rank, share] rising; ranks stand evenly, as powers of two. */
export function energyPlot(points: readonly (readonly [number, number])[], columns: number): string {
  const width = Math.max(20, Math.min(40, columns - 24));
  const label = (rank: number) => `rank ${String(rank).padStart(3)}`;
  return points
    .map(([rank, share]) => {
      const filled = Math.round(share * width);
      return `${label(rank)} ${"█".repeat(filled)}${"░".repeat(width - filled)} ${(100 * share).toFixed(1)}%`;
    })
    .join("\n");
}
