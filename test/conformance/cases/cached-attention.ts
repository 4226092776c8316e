// Attention over the blocks of a cache: rows stored in each type, blocks in any order, of decoding and of prompts' pieces, with
// windows, soft caps and sinks. Numbers are multiples of 2^-6 up to 127 of them, which every type holds exactly; a backend
// that lacks a type has them in f32 and must come to the same.

import type { DType } from "../../../src/tensor/dtype.ts";
import { Random } from "../../../src/util/rng.ts";
import type { Stage } from "../stage.ts";
import { casesOf, type KernelCase, type KernelSpec, type SpeedCase } from "./case.ts";

const blockTokens = 64;

interface Shape {
  /** New tokens and all tokens of each sequence. */
  readonly lengths: readonly (readonly [number, number])[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly width: number;
  readonly window?: number;
  readonly softcap?: number;
  readonly sinks?: boolean;
}

/** Numbers of rows that 8 bits hold exactly: the first of each 32 is the largest. */
function exactRows(stage: Stage, rows: number, width: number, seed: number) {
  const random = new Random(seed, 5);
  const values = Float64Array.from(
    { length: rows * width },
    (_, i) => ((i % width) % 32 === 0 ? 127 : random.nextInt(255) - 127) / 64,
  );
  return stage.values([rows, width], values);
}

/** A cache of this type with all sequences in it, and the call that attends to them. */
export function overCache(stage: Stage, type: DType, shape: Shape) {
  const { lengths, heads, kvHeads, width, window = 0, softcap = 0 } = shape;
  const { backend } = stage;
  const held = backend.cacheTypes?.includes(type) ? type : backend.floatType;
  const counts = lengths.map(([, keys]) => Math.ceil(keys / blockTokens));
  const total = counts.reduce((sum, count) => sum + count, 0) + 1;
  const numbers = kvHeads * width;
  const rowWidth = held === "u8" ? numbers + numbers / 16 : numbers;
  // Every fifth, so that no two blocks of a sequence lie beside each other.
  const step = [5, 7, 11].find((prime) => total % prime !== 0)!;
  const order = Array.from({ length: total }, (_, i) => (i * step + 3) % total);
  const table: number[] = [];
  const index: number[] = [];
  let [place, query] = [0, 0];
  for (const [i, [queries, keys]] of lengths.entries()) {
    table.push(query, queries, place, keys);
    for (let key = 0; key < keys; key++)
      index.push(order[place + Math.floor(key / blockTokens)]! * blockTokens + (key % blockTokens));
    query += queries;
    place += counts[i]!;
  }
  const places = stage.ints([index.length], index);
  const [k, v] = [1, 2].map((seed) => {
    const y = stage.zeros([total * blockTokens, rowWidth], held);
    backend.storeRows({ x: exactRows(stage, index.length, numbers, seed), index: places, y });
    return y;
  }) as [ReturnType<Stage["zeros"]>, ReturnType<Stage["zeros"]>];
  const [out, lse] = [stage.zeros([query, heads, width]), stage.zeros([query, heads])];
  const operands = {
    ...{ q: stage.random([query, heads, width], 3), k, v, kvHeads, blockTokens, window, softcap, out, lse },
    blocks: stage.ints([order.length], order),
    segments: {
      table: stage.ints([lengths.length, 4], table),
      count: lengths.length,
      maxQueries: Math.max(...lengths.map(([queries]) => queries)),
      maxKeys: Math.max(...lengths.map(([, keys]) => keys)),
    },
    scale: 1 / Math.sqrt(width),
    sinks: shape.sinks ? stage.random([heads], 8, 2) : undefined,
  };
  return { call: () => backend.cachedAttention(operands), operands, out, lse };
}

/** Few rows each, over more keys than one part of the work holds, exactly as many, and few. */
const decoding = [
  [1, 301],
  [1, 64],
  [1, 129],
  [1, 1],
] as const;
/** Beginnings and later pieces of prompts. */
const prompts = [
  [64, 64],
  [80, 400],
  [20, 20],
] as const;

const shapes: readonly Shape[] = [
  { lengths: decoding, heads: 9, kvHeads: 3, width: 64 },
  { lengths: decoding, heads: 4, kvHeads: 4, width: 32, window: 70 },
  { lengths: decoding, heads: 8, kvHeads: 1, width: 128, softcap: 2, sinks: true },
  { lengths: prompts, heads: 6, kvHeads: 2, width: 64 },
  { lengths: prompts, heads: 2, kvHeads: 1, width: 128, window: 100, sinks: true },
  { lengths: [[64, 192]], heads: 2, kvHeads: 2, width: 32, softcap: 3 },
];

const nameOf = ({ lengths, heads, kvHeads, width, window, softcap, sinks }: Shape) =>
  `${lengths.map(([queries, keys]) => `${queries}/${keys}`)} heads ${heads}/${kvHeads} width ${width}${window ? ` window ${window}` : ""}${softcap ? ` softcap ${softcap}` : ""}${sinks ? " sinks" : ""}`;

const caseOf = (type: DType, shape: Shape): KernelCase => ({
  attention: true,
  name: `cachedAttention ${type} ${nameOf(shape)}`,
  async run(stage) {
    const { call, out, lse } = overCache(stage, type, shape);
    call();
    return { out: await stage.read(out), lse: await stage.read(lse) };
  },
});

const types = ["f32", "bf16", "f16", "u8"] as const;

/** A width that is no multiple of any vector, which 8 bits do not hold. */
const odd: Shape = { lengths: [...decoding, [33, 70]], heads: 3, kvHeads: 1, width: 10 };

/** Sixteen requests of the 135M shape in the midst of answers. */
const speedOf = (type: DType): SpeedCase => {
  const shape = { lengths: Array(16).fill([1, 700]), heads: 9, kvHeads: 3, width: 64 };
  return {
    attention: true,
    name: `cachedAttention ${type}, 16 answers over 700 tokens, heads 9/3 width 64`,
    prepare(stage) {
      const { call, out, lse } = overCache(stage, type, shape);
      return { call, outputs: { out, lse } };
    },
  };
};

export const cachedAttention: KernelSpec = {
  name: "cachedAttention",
  cases: [
    ...types.flatMap((type) => shapes.map((shape) => caseOf(type, shape))),
    ...(["f32", "bf16"] as const).map((type) => caseOf(type, odd)),
  ],
  speed: types.map(speedOf),
  threads: [caseOf("bf16", shapes[0]!), caseOf("u8", shapes[3]!)],
};

export const storeRows: KernelSpec = {
  name: "storeRows",
  cases: casesOf(
    "storeRows",
    [
      [1, 32],
      [5, 64],
      [33, 96],
    ].map(([m, c]) => ({
      sizes: { m: m!, c: c!, rows: m! + 5, width: c! },
      make: (s: Stage) => ({
        index: s.ints(
          [m!],
          Array.from({ length: m! }, (_, i) => m! + 4 - i),
        ),
      }),
    })),
    { exact: true },
  ),
  speed: [],
  threads: [],
};
