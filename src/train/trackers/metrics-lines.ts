// The points that metrics.jsonl holds, for a tracker that has missed some: what it could not be sent in an earlier part
// of the run, or while its server was away. The file is read in pieces, as another thread may be writing it.

import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { createInterface } from "node:readline";
import { isSent, type Marks, marked, type Point, pointOf } from "./points.ts";

/** A line of ours is far shorter. */
const longestLine = 1 << 20;

/** Points beyond the marks, `most` at a time, oldest first. Lines that are none are passed over; so is a file that is gone. */
export async function* pointsIn(
  path: string,
  { marks, timing, most }: { readonly marks: Marks; readonly timing: boolean; readonly most: number },
): AsyncGenerator<Point[]> {
  const stream = createReadStream(path);
  let missing = false;
  stream.on("error", () => {
    missing = true;
    lines.close();
  });
  const lines = createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY });
  const highest: { -readonly [K in keyof Marks]: Marks[K] } = { ...marks };
  let points: Point[] = [];
  const timeMs = Date.now();
  try {
    for await (const line of lines) {
      const point = line.length > longestLine ? undefined : parsed(line, timing, timeMs);
      if (!point || isSent(point, highest)) continue;
      highest[point.kind] = point.step;
      points.push(point);
      if (points.length < most) continue;
      yield points;
      points = [];
    }
    if (points.length > 0 && !missing) yield points;
  } finally {
    lines.close();
    stream.destroy();
  }
}

/** Of each kind the last step before `step`, as far as the file's end tells. */
export async function lastSteps(path: string, step: number): Promise<Marks> {
  const file = await open(path, "r").catch(() => undefined);
  if (!file) return {};
  try {
    const { size } = await file.stat();
    const length = Math.min(size, tailBytes);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, size - length);
    const lines = buffer.subarray(0, bytesRead).toString("utf8").split("\n");
    const points = lines.flatMap((line) => parsed(line, false, 0) ?? []);
    return marked(
      {},
      points.filter((point) => point.step < step),
    );
  } finally {
    await file.close();
  }
}

const tailBytes = 1 << 20;

/** The last line may be written in part. */
function parsed(line: string, timing: boolean, timeMs: number): Point | undefined {
  try {
    const value: unknown = JSON.parse(line);
    const ours =
      value !== null && typeof value === "object" && (value as { type?: unknown }).type !== "sample";
    return ours ? pointOf(value, timing, timeMs) : undefined;
  } catch {
    return undefined;
  }
}
