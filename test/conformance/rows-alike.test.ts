// What RowsAlike promises, bit for bit on every backend: kernels give a row the same bits whatever else is in the pass,
// among few rows and among many, on any number of threads. Answers as a whole: test/generate/same-answers.test.ts.

import { describe, expect, it } from "vitest";
import type { Backend, LinearPart, Matrix, Tensor } from "../../src/backend/backend.ts";
import { rows } from "../../src/tensor/tensor.ts";
import { Random } from "../../src/util/rng.ts";
import { conformanceBackends } from "./backends.ts";
import { Stage } from "./stage.ts";

const weightKinds = [
  "f32",
  "bf16",
  "4-bit",
  "4-bit nested",
  "4-bit in blocks of 32",
  "4-bit in blocks of 50",
] as const;
/** Depths: inside one vector, whole vectors, several blocks of depth; outputs end inside tiles. */
const shapes = [
  { inputs: 50, outputs: 21 },
  { inputs: 192, outputs: 67 },
  { inputs: 1301, outputs: 33 },
  { inputs: 1600, outputs: 80 },
];

function weightOf(s: Stage, kind: (typeof weightKinds)[number], outputs: number, inputs: number): Matrix {
  if (kind === "f32") return s.random([outputs, inputs], 2, 0.5);
  if (kind === "bf16")
    return s.random([outputs, inputs], 2, 0.5, s.backend.precision === "fp16" ? "f16" : "bf16");
  const blockSize = kind.endsWith("32") ? 32 : kind.endsWith("50") ? 50 : 64;
  const blocks = Math.ceil((outputs * inputs) / blockSize);
  const random = new Random(9, 4);
  const codes = s.bytes(
    [Math.ceil((outputs * inputs) / 2)],
    Uint8Array.from({ length: Math.ceil((outputs * inputs) / 2) }, () => random.nextInt(256)),
  );
  const codebook = s.values(
    [16],
    Float32Array.from({ length: 16 }, (_, i) => (i - 6.5) / 9),
    "f32",
  );
  const base = { kind: "quantized", shape: [outputs, inputs], codes, codebook, blockSize } as const;
  const scales = Float32Array.from({ length: blocks }, () => 0.2 + random.nextFloat());
  if (kind !== "4-bit nested") return { ...base, absmax: s.values([blocks], scales, "f32") };
  const nested = {
    codebook: s.random([256], 5, 0.1, "f32"),
    absmax: s.random([Math.ceil(blocks / 256)], 6, 1, "f32"),
    blockSize: 256,
    offset: 0.4,
  };
  const absmax = s.bytes(
    [blocks],
    Uint8Array.from({ length: blocks }, () => random.nextInt(256)),
  );
  return { ...base, absmax, nested };
}

/** Rows [start, end) of a layer with bias, residual and adapter, as a pass of their own. */
function linearOf(
  s: Stage,
  x: Tensor,
  residual: Tensor,
  part: Omit<LinearPart, "y">,
  start: number,
  end: number,
) {
  const y = s.zeros([end - start, part.weight.shape[0]!]);
  const u = part.adapter && s.zeros([end - start, part.adapter.a.shape[0]!]);
  const adapter = part.adapter && { ...part.adapter, u: u! };
  s.backend.linear(rows(x, start, end), [{ ...part, adapter, residual: rows(residual, start, end), y }]);
  return y;
}

/** How n rows are cut into passes of at least `least` and at most `most` rows. */
function cutsOf(n: number, least: number, most: number): number[][] {
  const random = new Random(n, 3);
  return Array.from({ length: 3 }, () => {
    const cuts = [0];
    for (let at = 0; at < n; ) {
      const next = at + least + random.nextInt(Math.max(1, Math.min(most, n - at) - least + 1));
      at = n - next < least ? n : next;
      cuts.push(at);
    }
    return cuts;
  });
}

/** vitest compares typed arrays element by element, which takes longer than the kernels; bytes first. */
function expectBits(found: Uint32Array, wanted: Uint32Array, place?: string): void {
  if (Buffer.compare(bytesOf(found), bytesOf(wanted)) !== 0) expect(found, place).toEqual(wanted);
}

function bytesOf({ buffer, byteOffset, byteLength }: Uint32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Of n rows, some to compute alone: at both ends, and around where kernels change to more rows at a time. */
function singles(n: number): number[] {
  return [0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, n - 2, n - 1].filter(
    (row, i, all) => row >= 0 && row < n && all.indexOf(row) === i,
  );
}

async function bitsOf(s: Stage, tensor: Tensor): Promise<Uint32Array> {
  return new Uint32Array((await s.read(tensor)).slice().buffer);
}

async function onStage(open: () => Promise<Backend>, body: (s: Stage) => Promise<void>): Promise<void> {
  const backend = await open();
  const s = new Stage(backend);
  try {
    await body(s);
  } finally {
    s.free();
    backend.close();
  }
}

for (const { name, open, skip } of conformanceBackends) {
  describe.skipIf(skip !== "")(`rows alike: ${name}`, () => {
    it.each(weightKinds)("linear, %s weights", async (kind) => {
      await onStage(open, async (s) => {
        const { few, many } = s.backend.rowsAlike;
        const counts = many ? [few, 4 * few + 37] : [few];
        for (const { inputs, outputs } of shapes) {
          if (kind.startsWith("4-bit") && s.backend.name === "webgpu" && (inputs * outputs) % 2 === 1)
            continue;
          for (const n of counts) {
            const x = s.random([n, inputs], 1);
            const residual = s.random([n, outputs], 3);
            const adapter = {
              a: s.random([5, inputs], 7, 0.3),
              b: s.random([outputs, 5], 8, 0.3),
              scale: 1.7,
            };
            for (const adapted of [false, true]) {
              const part = {
                weight: weightOf(s, kind, outputs, inputs),
                bias: s.random([outputs], 4),
                ...(adapted ? { adapter: { ...adapter, u: x } } : {}),
              };
              const together = await bitsOf(s, linearOf(s, x, residual, part, 0, n));
              const passes = n <= few ? singles(n).map((row) => [row, row + 1] as const) : [];
              for (const cuts of cutsOf(n, n <= few ? 1 : few + 1, Math.max(n, few)))
                for (let i = 0; i + 1 < cuts.length; i++) passes.push([cuts[i]!, cuts[i + 1]!]);
              for (const [start, end] of passes) {
                const found = await bitsOf(s, linearOf(s, x, residual, part, start, end));
                const wanted = together.slice(start * outputs, end * outputs);
                expectBits(found, wanted, `${inputs} to ${outputs}, rows ${start} to ${end} of ${n}`);
              }
            }
          }
        }
      });
    });

    it.each([
      { heads: 9, kvHeads: 3, width: 64, window: 0 },
      { heads: 4, kvHeads: 4, width: 40, window: 0 },
      { heads: 4, kvHeads: 2, width: 32, window: 100 },
    ])("attention, $heads heads of $width, window $window", async ({ heads, kvHeads, width, window }) => {
      await onStage(open, async (s) => {
        const { few, many, piece } = s.backend.rowsAlike;
        const fewRows = [
          [1, 700],
          [1, 1],
          [few, few],
          [1, 130],
          [3, 90],
          [1, 64],
        ] as const;
        const manyRows = [
          [70, 70],
          [piece, piece * 9],
          [few + 1, few + 1],
          [piece + few, 200 + piece],
        ] as const;
        const lengths: readonly (readonly [number, number])[] = many ? [...fewRows, ...manyRows] : fewRows;
        const segments = s.segments(lengths);
        const total = (side: 0 | 1) => lengths.reduce((sum, length) => sum + length[side], 0);
        const q = s.random([total(0), heads, width], 1, 2);
        const [k, v] = [s.random([total(1), kvHeads, width], 2, 2), s.random([total(1), kvHeads, width], 3)];
        const sinks = s.random([heads], 4, 2);
        const run = async (queries: Tensor, keys: Tensor, values: Tensor, table: typeof segments) => {
          const out = s.zeros(queries.shape);
          const lse = s.zeros([queries.shape[0]!, heads]);
          s.backend.attention({
            q: queries,
            k: keys,
            v: values,
            segments: table,
            scale: 1 / Math.sqrt(width),
            window,
            softcap: heads === 4 ? 2 : 0,
            sinks: heads === 4 ? sinks : undefined,
            out,
            lse,
          });
          return [await bitsOf(s, out), await bitsOf(s, lse)] as const;
        };
        const [out, lse] = await run(q, k, v, segments);
        let [q0, k0] = [0, 0];
        for (const [queries, keys] of lengths) {
          const own = [rows(k, k0, k0 + keys), rows(v, k0, k0 + keys)] as const;
          const alone = await run(rows(q, q0, q0 + queries), ...own, s.segments([[queries, keys]]));
          const row = heads * width;
          const place = `${queries} queries of ${keys}`;
          expectBits(alone[0], out.slice(q0 * row, (q0 + queries) * row), place);
          expectBits(alone[1], lse.slice(q0 * heads, (q0 + queries) * heads), place);
          [q0, k0] = [q0 + queries, k0 + keys];
        }
      });
    });

    it("the short convolution and the delta rule, sequences alone and side by side", async () => {
      await onStage(open, async (s) => {
        const { few, many, piece } = s.backend.rowsAlike;
        // Tokens of each segment, its row of the state, and tokens of its sequence up to its end.
        type Piece = readonly [tokens: number, row: number, end: number];
        const prompt: Piece[] = many
          ? [
              [few + 50, 0, few + 50],
              [piece, 0, few + 50 + piece],
            ]
          : [[few, 0, few]];
        const sequences: Piece[][] = [[[1, 2, 77]], prompt, [[1, 1, 1]], [[3, 3, 40]]];
        const [c, taps, vHeads, keyWidth, vDim] = [40, 4, 2, 8, 24] as const;
        const tokens = sequences.flat().reduce((sum, [length]) => sum + length, 0);
        const x = s.random([tokens, c], 1);
        const qkv = s.random([tokens, 2 * keyWidth + vHeads * vDim], 2);
        const [g, beta] = [s.random([tokens, vHeads], 3, 0.1), s.random([tokens, vHeads], 4)];
        const w = s.random([c, taps], 5);
        const run = async (list: readonly Piece[], first: number) => {
          let end = 0;
          const table = list.flatMap(([length, row, total]) => {
            end += length;
            return [end - length, length, row, total];
          });
          const segments = {
            ...{ table: s.ints([list.length, 4], table), count: list.length },
            ...{ maxQueries: Math.max(...list.map(([n]) => n)), maxKeys: 0 },
          };
          const part = (tensor: Tensor) => rows(tensor, first, first + end);
          const [inputs, states] = [s.random([4, taps, c], 6), s.random([4, vHeads, keyWidth, vDim], 7)];
          const [y, out] = [s.zeros([end, c]), s.zeros([end, vHeads, vDim])];
          const silu = true;
          s.backend.causalConv1d({ x: part(x), w, bias: undefined, segments, silu, state: inputs, y });
          s.backend.gatedDeltaRule({
            ...{ qkv: part(qkv), g: part(g), beta: part(beta), segments, kHeads: 1, keyWidth },
            ...{ scale: 0.3, epsilon: 1e-6, state: states, out },
          });
          const rowOf = (tensor: Tensor, row: number) => bitsOf(s, rows(tensor, row, row + 1));
          const kept = list.flatMap(([, row]) => [rowOf(inputs, row), rowOf(states, row)]);
          return { y: await bitsOf(s, y), out: await bitsOf(s, out), kept: await Promise.all(kept) };
        };
        const together = await run(sequences.flat(), 0);
        let [first, kept] = [0, 0];
        for (const list of sequences) {
          const alone = await run(list, first);
          const length = list.reduce((sum, [n]) => sum + n, 0);
          const own = (all: Uint32Array, width: number) => all.slice(first * width, (first + length) * width);
          expect(alone.y).toEqual(own(together.y, c));
          expect(alone.out).toEqual(own(together.out, vHeads * vDim));
          expect(alone.kept).toEqual(together.kept.slice(kept, kept + 2 * list.length));
          [first, kept] = [first + length, kept + 2 * list.length];
        }
      });
    });

    it.each([7, 64, 1301])("norm, activation and rotation of rows of %i", async (width) => {
      await onStage(open, async (s) => {
        const n = 37;
        const [x, up, w] = [s.random([n, width], 1, 3), s.random([n, width], 2), s.random([width], 3)];
        const headWidth = 14;
        const [cos, sin] = [s.random([n, headWidth / 2], 4), s.random([n, headWidth / 2], 5)];
        const heads = s.random([n, 3, headWidth], 6);
        const run = async (start: number, end: number) => {
          const part = rows(x, start, end);
          const [norm, rstd] = [s.zeros([end - start, width]), s.zeros([end - start])];
          s.backend.rmsNorm({ x: part, w, shift: 0, epsilon: 1e-5, y: norm, rstd });
          const found = [await bitsOf(s, norm), await bitsOf(s, rstd)];
          for (const kind of ["silu", "gelu", "geluTanh", "sigmoid", "identity"] as const) {
            const y = s.zeros([end - start, width]);
            s.backend.gatedActivation({ activation: kind, gate: part, up: rows(up, start, end), y });
            found.push(await bitsOf(s, y));
          }
          const turned = s.zeros([end - start, 3, headWidth]);
          const positions = s.ints(
            [end - start],
            Array.from({ length: end - start }, (_, i) => start + i),
          );
          s.backend.rope({ x: rows(heads, start, end), positions, cos, sin, direction: 1, y: turned });
          return [...found, await bitsOf(s, turned)];
        };
        const together = await run(0, n);
        for (const [start, end] of [
          [0, 1],
          [1, 2],
          [2, 9],
          [9, 36],
          [36, 37],
        ] as const) {
          for (const [i, found] of (await run(start, end)).entries()) {
            const each = together[i]!.length / n;
            expectBits(found, together[i]!.slice(start * each, end * each));
          }
        }
      });
    });
  });
}
