// Numbers of a run by step, in columns: 8 bytes a number, whatever a line of metrics.jsonl calls it. Joined for a plot that
// has fewer points than the run has steps. Reading the file is metrics-tail.ts's affair.

import type { Series, SeriesTable } from "./api.ts";

/** A line has some ten numbers; grpo's a few for each reward. */
const mostColumns = 64;
const longestName = 80;

export class MetricColumns {
  private steps = new Float64Array(256);
  private count = 0;
  private readonly columns = new Map<string, Float64Array>();

  get length(): number {
    return this.count;
  }

  /** Bytes held. */
  get sizeBytes(): number {
    return (1 + this.columns.size) * this.steps.byteLength;
  }

  stepAt(index: number): number {
    return this.steps[index]!;
  }

  lastStep(): number {
    return this.count === 0 ? 0 : this.steps[this.count - 1]!;
  }

  /** NaN where there is none. */
  valueAt(name: string, index: number): number {
    return index < this.count ? (this.columns.get(name)?.[index] ?? Number.NaN) : Number.NaN;
  }

  /** A line's numbers; what is no number is passed over. */
  add(step: number, line: Readonly<Record<string, unknown>>): void {
    if (this.count === this.steps.length) this.grow();
    const row = this.count++;
    this.steps[row] = step;
    for (const column of this.columns.values()) column[row] = Number.NaN;
    for (const [name, value] of Object.entries(line)) {
      if (typeof value !== "number" || name === "step") continue;
      let column = this.columns.get(name);
      if (!column) {
        if (this.columns.size >= mostColumns || name.length > longestName) continue;
        column = new Float64Array(this.steps.length).fill(Number.NaN);
        this.columns.set(name, column);
      }
      column[row] = value;
    }
  }

  /** How many rows at the beginning both have alike. */
  sameRows(other: MetricColumns): number {
    const most = Math.min(this.count, other.count);
    let row = 0;
    while (
      row < most &&
      this.steps[row] === other.steps[row] &&
      Object.is(this.valueAt("loss", row), other.valueAt("loss", row))
    )
      row++;
    return row;
  }

  /** Rows [from, end) as they are. */
  rows(from: number, end = this.count): SeriesTable {
    return this.joined(from, end, 1);
  }

  /** Rows whose steps are in [fromStep, toStep], joined to at most `points`. */
  between(
    fromStep: number,
    toStep: number,
    points: number,
  ): { readonly steps: number; readonly stepsPerPoint: number; readonly table: SeriesTable } {
    const from = this.firstAt(fromStep);
    const end = this.firstAt(toStep + 1);
    const steps = Math.max(0, end - from);
    const stepsPerPoint = Math.max(1, Math.ceil(steps / points));
    return { steps, stepsPerPoint, table: this.joined(from, end, stepsPerPoint) };
  }

  /** The first row of this step or a later one. */
  private firstAt(step: number): number {
    let [low, high] = [0, this.count];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.steps[middle]! < step) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  private joined(from: number, end: number, each: number): SeriesTable {
    const step: number[] = [];
    for (let start = from; start < end; start += each)
      step.push(this.steps[Math.min(start + each, end) - 1]!);
    const series: Record<string, Series> = {};
    for (const [name, column] of this.columns) {
      const joined = each === 1 ? plain(column, from, end) : extremes(column, from, end, each);
      if (joined) series[name] = joined;
    }
    return { step, series };
  }

  private grow(): void {
    const longer = (column: Float64Array) => {
      const grown = new Float64Array(2 * column.length).fill(Number.NaN, column.length);
      grown.set(column);
      return grown;
    };
    this.steps = longer(this.steps);
    for (const [name, column] of this.columns) this.columns.set(name, longer(column));
  }
}

/** Undefined where the rows have none of it. */
function plain(column: Float64Array, from: number, end: number): Series | undefined {
  const mean: (number | null)[] = [];
  let some = false;
  for (let row = from; row < end; row++) {
    const value = column[row]!;
    const known = Number.isFinite(value);
    some ||= known;
    mean.push(known ? value : null);
  }
  return some ? { mean } : undefined;
}

function extremes(column: Float64Array, from: number, end: number, each: number): Series | undefined {
  const mean: (number | null)[] = [];
  const min: (number | null)[] = [];
  const max: (number | null)[] = [];
  let some = false;
  for (let start = from; start < end; start += each) {
    let [sum, count, least, most] = [0, 0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    for (let row = start; row < Math.min(start + each, end); row++) {
      const value = column[row]!;
      if (!Number.isFinite(value)) continue;
      sum += value;
      count++;
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
    some ||= count > 0;
    mean.push(count === 0 ? null : short(sum / count));
    min.push(count === 0 ? null : least);
    max.push(count === 0 ? null : most);
  }
  return some ? { mean, min, max } : undefined;
}

/** A mean of measured numbers has no sixteen digits, and the page would read them all. */
function short(value: number): number {
  return Number(value.toPrecision(8));
}
