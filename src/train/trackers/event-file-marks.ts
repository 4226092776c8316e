// How far the event files of a run's earlier parts go: of each kind of points the last step that readers will show, which
// a kill may have left anywhere. Reads no more of a record than its step and its first tag (layout: event-file.ts), and
// stops at the first that is not whole.

import { createReadStream } from "node:fs";
import { type Marks, marked, type PointKind, pointKinds } from "./points.ts";

/** Longer records are none of ours. */
const longestRecord = 64 * 2 ** 20;
const framing = { before: 12, after: 4 };

/** Marks after this file, where `marks` are those of the files before it. A file that cannot be read adds none. */
export async function marksAfter(path: string, marks: Marks): Promise<Marks> {
  let known = marks;
  let rest: Buffer = Buffer.alloc(0);
  try {
    for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) {
      rest = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
      let at = 0;
      while (rest.length - at >= framing.before) {
        const length = Number(rest.readBigUInt64LE(at));
        if (length > longestRecord) return known;
        const begin = at + framing.before;
        if (rest.length < begin + length + framing.after) break;
        known = afterRecord(rest.subarray(begin, begin + length), known);
        at = begin + length + framing.after;
      }
      rest = rest.subarray(at);
    }
  } catch {
    // What is there of it has been counted.
  }
  return known;
}

function afterRecord(data: Buffer, marks: Marks): Marks {
  let step = 0;
  let kind: string | undefined;
  let restarts = false;
  for (const { field, value, bytes } of fieldsOf(data)) {
    if (field === 2) step = value;
    if (field === 7) restarts = true;
    if (field === 5 && bytes && kind === undefined) kind = firstTag(bytes)?.split("/")[0];
  }
  if (restarts) {
    const left = Object.entries(marks).map(([each, last]) => [each, Math.min(last, step - 1)]);
    return Object.fromEntries(left) as Marks;
  }
  const known = pointKinds.includes(kind as PointKind) ? (kind as PointKind) : undefined;
  return known ? marked(marks, [{ kind: known, step }]) : marks;
}

function firstTag(summary: Buffer): string | undefined {
  for (const { field, bytes } of fieldsOf(summary)) {
    if (field !== 1 || !bytes) continue;
    for (const own of fieldsOf(bytes)) if (own.field === 1) return own.bytes?.toString("utf8", 0, 200);
  }
  return undefined;
}

/** The fields of a protocol buffer, as far as they are whole. */
function* fieldsOf(data: Buffer): Generator<{ field: number; value: number; bytes?: Buffer }> {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; at < data.length; scale *= 128) {
      const byte = data[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128 || scale > 2 ** 56) break;
    }
    return value;
  };
  while (at < data.length) {
    const key = varint();
    const [field, wire] = [Math.floor(key / 8), key % 8];
    if (wire === 0) yield { field, value: varint() };
    else if (wire === 1 || wire === 5) at += wire === 1 ? 8 : 4;
    else if (wire === 2) {
      const length = varint();
      if (length > data.length - at) return;
      yield { field, value: length, bytes: data.subarray(at, at + length) };
      at += length;
    } else return;
  }
}
