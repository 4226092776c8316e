// What compiled WGSL calls: arithmetic in the types' own precision, memory with bounds, and subgroup matrices.

import { decodeToF32, encodeFrom } from "../../src/tensor/dtype.ts";

/** Bytes under every view that a type needs; `start` is where the binding begins. */
export interface Bytes {
  readonly f: Float32Array;
  readonly u: Uint32Array;
  readonly i: Int32Array;
  readonly h: Uint16Array;
  readonly start: number;
  readonly size: number;
  readonly name: string;
}

export function bytesOver(buffer: ArrayBuffer, start: number, size: number, name: string): Bytes {
  return {
    f: new Float32Array(buffer),
    u: new Uint32Array(buffer),
    i: new Int32Array(buffer),
    h: new Uint16Array(buffer),
    ...{ start, size, name },
  };
}

const everyHalf = decodeToF32(new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer), "f16");
const halfBits = (x: number): number => {
  const bytes = encodeFrom([x], "f16");
  return bytes[0]! | (bytes[1]! << 8);
};
const view = new DataView(new ArrayBuffer(4));

/** A matrix of a subgroup, row by row; held by its first lane. */
interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float32Array;
}

/** Place of `size` bytes in units of `unit`; an error outside the binding. */
function place(m: Bytes, at: number, size: number, unit: number): number {
  if (!(at >= 0 && at + size <= m.size)) throw new Error(`${m.name}: byte ${at} of ${m.size}`);
  return (m.start + at) / unit;
}

function copy(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(copy);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, copy(one)]));
}

type Num = number | readonly number[];
type Fn1 = (a: number) => number;
type Fn2 = (a: number, b: number) => number;

export const runtime = {
  fr: Math.fround,
  h16: (x: number) => everyHalf[halfBits(x)]!,
  lf: (m: Bytes, at: number) => m.f[place(m, at, 4, 4)]!,
  lu: (m: Bytes, at: number) => m.u[place(m, at, 4, 4)]!,
  li: (m: Bytes, at: number) => m.i[place(m, at, 4, 4)]!,
  lh: (m: Bytes, at: number) => everyHalf[m.h[place(m, at, 2, 2)]!]!,
  sf: (m: Bytes, at: number, x: number) => void (m.f[place(m, at, 4, 4)] = x),
  su: (m: Bytes, at: number, x: number) => void (m.u[place(m, at, 4, 4)] = x),
  si: (m: Bytes, at: number, x: number) => void (m.i[place(m, at, 4, 4)] = x),
  sh: (m: Bytes, at: number, x: number) => void (m.h[place(m, at, 2, 2)] = halfBits(x)),
  copy,
  map1: (f: Fn1, a: Num): Num => (typeof a === "number" ? f(a) : a.map(f)),
  map2(f: Fn2, a: Num, b: Num): Num {
    if (typeof a !== "number") return a.map((x, i) => f(x, typeof b === "number" ? b : b[i]!));
    return typeof b === "number" ? f(a, b) : b.map((y) => f(a, y));
  },
  select: (no: unknown, yes: unknown, when: boolean | boolean[]) =>
    Array.isArray(when)
      ? when.map((w, i) => (w ? (yes as unknown[])[i] : (no as unknown[])[i]))
      : when
        ? yes
        : no,
  dot: (a: readonly number[], b: readonly number[]) =>
    a.reduce((sum, x, i) => Math.fround(sum + Math.fround(x * b[i]!)), 0),
  div: (a: number, b: number) => (b === 0 ? a : Math.trunc(a / b)),
  rem: (a: number, b: number) => (b === 0 ? 0 : a % b),
  toI: (x: number) => Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, Math.trunc(x))) | 0,
  toU: (x: number) => Math.max(0, Math.min(2 ** 32 - 1, Math.trunc(x))) >>> 0,
  bits: (x: number, from: string, to: string) => {
    if (from === "f32") view.setFloat32(0, x);
    else view.setUint32(0, x >>> 0);
    return to === "f32" ? view.getFloat32(0) : to === "i32" ? view.getInt32(0) : view.getUint32(0);
  },
  pack: ([a, b]: readonly [number, number]) => ((halfBits(b) << 16) | halfBits(a)) >>> 0,
  unpack: (x: number) => [everyHalf[x & 0xffff]!, everyHalf[x >>> 16]!],
  firstBit: (x: number) => (x === 0 ? 0xffffffff : 31 - Math.clz32(x)),
  load(
    m: Bytes,
    at: number,
    stride: number,
    half: boolean,
    rows: number,
    columns: number,
    byColumn: boolean,
  ): Matrix {
    const values = new Float32Array(rows * columns);
    const unit = half ? 2 : 4;
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        const to = place(m, at + (byColumn ? c * stride + r * unit : r * stride + c * unit), unit, unit);
        values[r * columns + c] = half ? everyHalf[m.h[to]!]! : m.f[to]!;
      }
    }
    return { rows, columns, values };
  },
  store(m: Bytes, at: number, { rows, columns, values }: Matrix, stride: number): void {
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++)
        m.f[place(m, at + r * stride + 4 * c, 4, 4)] = values[r * columns + c]!;
  },
  filled: (rows: number, columns: number, value: number): Matrix => ({
    ...{ rows, columns, values: new Float32Array(rows * columns).fill(value) },
  }),
  multiply(left: Matrix, right: Matrix, sum: Matrix): Matrix {
    const { rows, columns } = sum;
    const values = new Float32Array(rows * columns);
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        let total = sum.values[r * columns + c]!;
        for (let k = 0; k < left.columns; k++)
          total += left.values[r * left.columns + k]! * right.values[k * columns + c]!;
        values[r * columns + c] = total;
      }
    }
    return { rows, columns, values };
  },
};
