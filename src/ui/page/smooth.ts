// Smoothed lines and summaries of a series. Not here: drawing (chart.tsx).

/**
 * Exponential moving average, corrected for its start as Adam's moments are: weight 0 is the series itself. Gaps stay
 * gaps and do not count.
 */
export function smoothed(values: readonly (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return values.slice();
  const result = new Array<number | null>(values.length);
  let sum = 0;
  let mass = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value === null || !Number.isFinite(value)) {
      result[i] = null;
      continue;
    }
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    result[i] = sum / mass;
  }
  return result;
}

/** How much lines are smoothed until the reader chooses: over a twentieth of the steps, or five of a long run's. */
export function usualSmooth(steps: number): number {
  return Math.round(100 * Math.min(0.8, Math.max(0, 1 - 20 / Math.max(1, steps)))) / 100;
}

/** What a listener needs of a line: where it begins, ends, and is lowest and highest. */
export interface Extremes {
  readonly count: number;
  readonly first: Point;
  readonly last: Point;
  readonly low: Point;
  readonly high: Point;
}
interface Point {
  readonly x: number;
  readonly y: number;
}

export function extremesOf(xs: readonly number[], ys: readonly (number | null)[]): Extremes | undefined {
  let found: { count: number; first: Point; last: Point; low: Point; high: Point } | undefined;
  for (let i = 0; i < ys.length; i++) {
    const y = ys[i]!;
    if (y === null || !Number.isFinite(y)) continue;
    const point = { x: xs[i]!, y };
    if (!found) {
      found = { count: 1, first: point, last: point, low: point, high: point };
      continue;
    }
    found.count++;
    found.last = point;
    if (y < found.low.y) found.low = point;
    if (y > found.high.y) found.high = point;
  }
  return found;
}

/** The range that holds `share` of the values in the middle, with a little air. */
export function middleRange(
  lists: readonly (readonly (number | null)[])[],
  share: number,
): [number, number] | undefined {
  const all = lists.flatMap((list) => list.filter((y): y is number => y !== null && Number.isFinite(y)));
  if (all.length === 0) return undefined;
  all.sort((one, other) => one - other);
  const at = (part: number) => all[Math.min(all.length - 1, Math.floor(part * all.length))]!;
  const [low, high] = [at((1 - share) / 2), at(1 - (1 - share) / 2)];
  const air = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - air, high + air];
}
