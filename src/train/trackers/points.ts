// What trackers are given: a point is one line of metrics.jsonl as named numbers, or a sample as text. Names are the
// line's type and its key, "train/loss"; what is no finite number is left out, as JSON has no other. Not here: how a
// tracker writes them.

import type { TrainEvent } from "../events.ts";

/** "average": the evaluation of a mean of checkpoints, which comes after the last step's own. */
export const pointKinds = ["train", "eval", "forget", "average", "sample"] as const;
export type PointKind = (typeof pointKinds)[number];

export interface Point {
  readonly kind: PointKind;
  readonly step: number;
  /** When it was told, in milliseconds since 1970. */
  readonly timeMs: number;
  readonly values: Readonly<Record<string, number>>;
  readonly text?: { readonly prompt: string; readonly text: string };
}

/** Of each kind the last step that arrived, so that nothing is sent twice. */
export type Marks = Readonly<Partial<Record<PointKind, number>>>;

/** Keys of wall-clock time, which --no-timing leaves out of metrics.jsonl. */
const timed: ReadonlySet<string> = new Set(["tokensPerSecond", "elapsedMs"]);
/** More numbers than a line of ours has. */
const mostValues = 500;

/** The point that an event is, or a line of metrics.jsonl; undefined for others. */
export function pointOf(event: TrainEvent | object, timing: boolean, timeMs: number): Point | undefined {
  const { type, step } = event as { type?: unknown; step?: unknown };
  if (!Number.isSafeInteger(step) || (step as number) < 0) return undefined;
  const at = { step: step as number, timeMs };
  if (type === "sample") {
    const { prompt, text } = event as Extract<TrainEvent, { type: "sample" }>;
    return { kind: "sample", ...at, values: {}, text: { prompt, text } };
  }
  if (type !== "train" && type !== "eval" && type !== "forget") return undefined;
  const kind = type === "eval" && "averagedCheckpoints" in event ? "average" : type;
  const values: Record<string, number> = {};
  const take = (from: object, prefix: string, depth: number): void => {
    for (const [key, value] of Object.entries(from)) {
      if (Object.keys(values).length >= mostValues) return;
      if (key === "type" || (key === "step" && depth === 0)) continue;
      if (!timing && timed.has(key)) continue;
      if (typeof value === "number" && Number.isFinite(value)) values[`${prefix}${key}`] = value;
      else if (depth === 0 && value !== null && typeof value === "object" && !Array.isArray(value))
        take(value, `${prefix}${key}.`, depth + 1);
    }
  };
  take(event, `${kind}/`, 0);
  return { kind, ...at, values };
}

export function isSent({ kind, step }: Pick<Point, "kind" | "step">, marks: Marks): boolean {
  return step <= (marks[kind] ?? Number.NEGATIVE_INFINITY);
}

/** Marks after these points as well. */
export function marked(marks: Marks, points: readonly Pick<Point, "kind" | "step">[]): Marks {
  const next: Partial<Record<PointKind, number>> = { ...marks };
  for (const { kind, step } of points) next[kind] = Math.max(next[kind] ?? step, step);
  return next;
}
