// What a comparison leaves in its folder: compare.json with every figure, compare.md with the table, and two plots.
// Also the table's cells, which the terminal prints too. Plots themselves: svg.ts.

import { join } from "node:path";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import type { Comparison } from "./compare.ts";
import type { Difference } from "./quality-kept.ts";
import type { ComparedRow, KeepResult } from "./row.ts";
import { curvesSvg, pointsSvg } from "./svg.ts";

/** Writes the four files; returns their paths. */
export async function writeReport(out: string, comparison: Comparison): Promise<string[]> {
  const files: [string, string][] = [
    ["compare.json", `${JSON.stringify(comparison, null, 2)}\n`],
    ["compare.md", markdown(comparison)],
  ];
  const tuned = comparison.rows.filter(({ course }) => course.length > 1);
  if (tuned.length > 0) {
    const curves = tuned.map(({ name, course }) => ({ name, points: smoothed(course) }));
    files.push([
      "loss-curves.svg",
      curvesSvg(curves, { title: "Training loss", x: "step", y: "loss (running mean), nats a token" }),
    ]);
    const { quality } = comparison;
    const points = tuned.map(({ name, peakBytes, scores, intervals }) => ({
      ...{ name, x: peakBytes! / 1e6, y: scores[quality]! },
      ...intervals[quality],
    }));
    files.push([
      "quality-memory.svg",
      pointsSvg(points, {
        title: `Quality against memory`,
        x: "peak device memory, MB",
        y: `${quality} (95% interval)`,
      }),
    ]);
  }
  for (const [name, text] of files) await writeFileAtomic(join(out, name), text);
  return files.map(([name]) => join(out, name));
}

/** Running mean over a tenth of the course, at no more than 400 points. */
function smoothed(course: ComparedRow["course"]): [number, number][] {
  const window = Math.max(1, Math.round(course.length / 10));
  const points: [number, number][] = [];
  let sum = 0;
  const stride = Math.max(1, Math.floor(course.length / 400));
  for (const [i, [step, loss]] of course.entries()) {
    sum += loss;
    if (i >= window) sum -= course[i - window]![1];
    if (i % stride === 0 || i === course.length - 1) points.push([step, sum / Math.min(i + 1, window)]);
  }
  return points;
}

/** Heading and cells of the table; `bytes` and `count` say how numbers look. */
export function tableOf(comparison: Comparison): { heading: string[]; cells: string[][] } {
  const { rows, quality } = comparison;
  const names = Object.keys(rows[0]!.scores);
  const against = rows.find(({ difference }) => difference)?.difference?.against;
  const priced = rows.some(({ cost }) => cost !== undefined);
  const heading = [
    ...["method", "learning rate", "trains", "peak MB", "tokens/s", "time s"],
    ...(priced ? ["cost $"] : []),
    ...names.map((name) => `${name} ± standard error [95%]`),
    `kept % of full (${quality})`,
    "of its gain",
    ...(against === undefined ? [] : [`${quality} against ${against}`]),
  ];
  const cells = rows.map((row) => [
    row.name,
    row.learningRate === undefined
      ? "-"
      : `${Number(row.learningRate.toPrecision(2))}${row.atEdge ? "*" : ""}`,
    row.trainableParameters.toLocaleString("en-US"),
    row.peakBytes === undefined ? "-" : (row.peakBytes / 1e6).toFixed(1),
    row.tokensPerSecond === undefined ? "-" : row.tokensPerSecond.toFixed(0),
    row.seconds === undefined ? "-" : row.seconds.toFixed(1),
    ...(priced ? [row.cost === undefined ? "-" : row.cost.toFixed(4)] : []),
    ...names.map((name) => withError(row.scores[name]!, row.standardErrors[name]!, row.intervals[name])),
    row.kept === undefined ? "-" : withError(row.kept.percent, row.kept.standardError, row.kept.interval, 1),
    row.gained === undefined ? "-" : `${row.gained.toFixed(1)}%`,
    ...(against === undefined ? [] : [row.difference ? differenceText(row.difference) : "-"]),
  ]);
  return { heading, cells };
}

function withError(
  value: number,
  standardError: number,
  interval: { low: number; high: number } | undefined,
  digits = Math.abs(value) < 1 ? 4 : 2,
): string {
  const shown = `${value.toFixed(digits)} ± ${standardError.toFixed(digits)}`;
  return interval ? `${shown} [${interval.low.toFixed(digits)}, ${interval.high.toFixed(digits)}]` : shown;
}

/** "+0.12 ± 0.30: no difference (p 0.69)". */
function differenceText({ value, standardError, p, verdict }: Difference): string {
  const digits = Math.max(Math.abs(value), standardError) < 1 ? 4 : 2;
  const sign = value < 0 ? "" : "+";
  return `${sign}${value.toFixed(digits)} ± ${standardError.toFixed(digits)}: ${verdict} (p ${p < 0.001 ? "< 0.001" : p.toFixed(p < 0.1 ? 3 : 2)})`;
}

/** What --keep found, in words. */
export function keepText(keep: KeepResult): string {
  const wanted = `${keep.percent}% of full fine-tuning's quality`;
  const budget = `${keep.runs} runs${keep.exhausted ? ` (the budget of ${keep.budget} ended the search)` : ""}`;
  if (keep.found === undefined) {
    return `No adapter tried keeps ${wanted}; the nearest, ${keep.best}, keeps ${keep.bestPercent.toFixed(1)}% after ${budget}.`;
  }
  const certainty = keep.certain
    ? "its whole interval does"
    : "its interval reaches below, so more rows or seeds may decide otherwise";
  return `The cheapest adapter tried that keeps ${wanted} is ${keep.found}: ${certainty}. ${budget}.`;
}

function seedsText({ seeds }: Comparison): string {
  return seeds.length > 1 ? `means over seeds ${seeds.join(", ")}` : `seed ${seeds[0]}`;
}

/** What the errors in the table are of, and what was tested. */
export function errorsText({ rows, seeds }: Comparison): string {
  const errors =
    seeds.length > 1
      ? "Standard errors are of evaluation rows and seeds together; intervals: bootstrap over rows alone, 95%."
      : "Standard errors and intervals (95%): bootstrap over evaluation rows; they say nothing of other seeds (--seeds).";
  const difference = rows.find((row) => row.difference)?.difference;
  return difference === undefined
    ? errors
    : `${errors} Differences: ${difference.test}, without a correction for several comparisons.`;
}

export const edgeNote =
  "* the best learning rate is the smallest or largest tried; a better one may lie beyond (--grid-runs, --learning-rates)";

function markdown(comparison: Comparison): string {
  const { heading, cells } = tableOf(comparison);
  const line = (row: readonly string[]) =>
    `| ${row.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [
    `# ${comparison.model} on ${comparison.data}`,
    "",
    `Measured on ${comparison.evalData}; ${seedsText(comparison)}; ${comparison.runs} training runs; ${comparison.status}. Learning rates were chosen on rows held back from training, by validation loss${comparison.seeds.length > 1 ? " of the first seed" : ""}. ${errorsText(comparison)}`,
    "",
    line(heading),
    line(heading.map(() => "---")),
    ...cells.map(line),
    "",
    ...(comparison.rows.some(({ atEdge }) => atEdge) ? [edgeNote.replace("*", "\\*"), ""] : []),
    ...(comparison.keep ? [keepText(comparison.keep), ""] : []),
    "![loss curves](loss-curves.svg)",
    "",
    "![quality against memory](quality-memory.svg)",
    "",
  ].join("\n");
}
