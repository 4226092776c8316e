// One list of kernel cases for every backend: sizes with tails, empty inputs, extreme values, aliasing. A case runs
// on any backend and returns what it computed; backend.test.ts compares with the reference in double precision.

import type { ActivationKind } from "../../src/backend/backend.ts";
import { Random } from "../../src/util/rng.ts";
import { quantizedStateCases } from "./quantized-state-cases.ts";
import { Stage } from "./stage.ts";

export { Stage };

type Outputs = Record<string, Float32Array>;

export interface KernelCase {
  readonly name: string;
  /** Matrix products: compared with the tolerance of the backend's precision. */
  readonly product?: boolean;
  /** Attention, whose products some devices make of f16 inputs. */
  readonly attention?: boolean;
  /** Bit for bit. */
  readonly exact?: boolean;
  run(stage: Stage): Promise<Outputs>;
}

const sizes = [0, 1, 3, 17, 64, 1000, 4099];

function elementwiseCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const n of sizes) {
    cases.push({
      name: `fill, addInPlace, scaleInPlace n=${n}`,
      async run(s) {
        const [x, y] = [s.random([n], 1), s.random([n], 2)];
        s.backend.addInPlace({ x, y });
        s.backend.scaleInPlace({ y, factor: -1.5 });
        s.backend.fill({ y: x, value: 0.25 });
        return { x: await s.read(x), y: await s.read(y) };
      },
    });
    cases.push({
      name: `sum, sumSquares n=${n}`,
      async run(s) {
        const x = s.random([n], 3, 2);
        const [a, b] = [s.zeros([1]), s.zeros([1])];
        s.backend.sum({ x, out: a });
        s.backend.sumSquares({ x, out: b });
        return { sum: await s.read(a), squares: await s.read(b) };
      },
    });
    for (const kind of ["silu", "gelu", "geluTanh"] satisfies ActivationKind[]) {
      cases.push({
        name: `gatedActivation ${kind} n=${n}, forward and in-place backward`,
        async run(s) {
          const [gate, up, dy, y] = [
            s.random([n, 1], 4, 9),
            s.random([n, 1], 5, 3),
            s.random([n, 1], 6),
            s.zeros([n, 1]),
          ];
          s.backend.gatedActivation({ activation: kind, gate, up, y });
          const value = await s.read(y);
          s.backend.gatedActivationBackward({ activation: kind, gate, up, dy, dGate: gate, dUp: up });
          return { y: value, dGate: await s.read(gate), dUp: await s.read(up) };
        },
      });
    }
  }
  for (const [from, to] of [
    ["f32", "bf16"],
    ["f32", "f16"],
    ["bf16", "f32"],
    ["f16", "f32"],
    ["f16", "bf16"],
  ] as const) {
    cases.push({
      name: `cast ${from} to ${to}`,
      async run(s) {
        const special = [
          0,
          -0,
          1,
          -1,
          65504,
          1e-8,
          6e-5,
          3.0517578,
          1 / 3,
          1e5,
          -123456,
          2.5,
          1.00390625,
          1.01171875,
        ];
        const noise = new Random(9);
        const x = s.values(
          [200],
          Float32Array.from({ length: 200 }, (_, i) => special[i] ?? noise.nextNormal()),
          from,
        );
        const y = s.zeros([200], to);
        s.backend.cast({ x, y });
        return { y: await s.read(y) };
      },
    });
  }
  for (const dtype of ["f32", "bf16"] as const) {
    cases.push({
      name: `fillUniform ${dtype}`,
      async run(s) {
        const y = s.zeros([1003], dtype);
        s.backend.fillUniform({ y, bound: 0.3, seed: 2 ** 40 + 12345, stream: 7 });
        return { y: await s.read(y) };
      },
    });
    cases.push({
      name: `countNonFinite ${dtype}`,
      async run(s) {
        const values = Float32Array.from({ length: 333 }, (_, i) =>
          i % 50 === 3 ? Number.NaN : i % 70 === 5 ? Number.NEGATIVE_INFINITY : i,
        );
        const out = s.zeros([1]);
        s.backend.countNonFinite({ x: s.values([333], values, dtype), out });
        return { out: await s.read(out) };
      },
    });
  }
  return cases;
}

function rowCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const [rows, width] of [
    [0, 8],
    [2, 3],
    [3, 17],
    [5, 64],
    [33, 96],
    [70, 576],
    [2, 2049],
  ] as const) {
    for (const accumulate of [false, true]) {
      cases.push({
        name: `rmsNorm [${rows},${width}] ${accumulate ? "accumulating" : "overwriting"}`,
        async run(s) {
          const [x, w, y, rstd] = [
            s.random([rows, width], 1, 2),
            s.random([width], 2),
            s.zeros([rows, width]),
            s.zeros([rows]),
          ];
          s.backend.rmsNorm({ x, w, epsilon: 1e-5, y, rstd });
          const [dy, dx, dw] = [s.random([rows, width], 3), s.random([rows, width], 4), s.random([width], 5)];
          s.backend.rmsNormBackward({ x, w, rstd, dy, dx, accumulate, dw });
          const dxAlone = s.zeros([rows, width]);
          s.backend.rmsNormBackward({ x, w, rstd, dy, dx: dxAlone, accumulate: false, dw: undefined });
          const dwAlone = s.zeros([width]);
          s.backend.rmsNormBackward({ x, w, rstd, dy, dx: undefined, accumulate: false, dw: dwAlone });
          return {
            y: await s.read(y),
            rstd: await s.read(rstd),
            dx: await s.read(dx),
            dw: await s.read(dw),
            dxAlone: await s.read(dxAlone),
            dwAlone: await s.read(dwAlone),
          };
        },
      });
    }
    cases.push({
      name: `gatherRows, scatterRows, embedding [${rows},${width}]`,
      async run(s) {
        const table = s.random([rows + 5, width], 6);
        const ids = Array.from({ length: rows }, (_, i) => (i * 7 + 2) % (rows + 5));
        const index = s.ints([rows], ids);
        const [y, e, eb, z] = [
          s.zeros([rows, width]),
          s.zeros([rows, width]),
          s.zeros([rows, width]),
          s.random([rows + 5, width], 8),
        ];
        s.backend.gatherRows({ x: table, index, y });
        s.backend.embedding({ ids: index, table, y: e });
        s.backend.embedding({ ids: index, table: s.random([rows + 5, width], 6, 1, "bf16"), y: eb });
        s.backend.scatterRows({
          x: y,
          index: s.ints([rows], [...new Set(ids)].length === rows ? ids : ids.map((_, i) => i)),
          y: z,
        });
        const repeated = s.ints(
          [rows],
          ids.map((id) => id % 3),
        );
        const dTable = s.random([rows + 5, width], 9);
        s.backend.embeddingBackward({ ids: repeated, dy: e, dTable });
        return {
          y: await s.read(y),
          e: await s.read(e),
          eb: await s.read(eb),
          z: await s.read(z),
          dTable: await s.read(dTable),
        };
      },
    });
  }
  for (const [tokens, heads, width, rotary] of [
    [0, 2, 8, 8],
    [1, 1, 2, 2],
    [5, 3, 6, 6],
    [19, 4, 64, 64],
    [7, 2, 80, 80],
    [5, 3, 6, 4],
    [9, 2, 5, 2],
    [19, 4, 64, 16],
    [11, 2, 80, 60],
  ] as const) {
    for (const direction of [1, -1] as const) {
      cases.push({
        name: `rope [${tokens},${heads},${width}] ${rotary === width ? "" : `first ${rotary} `}${direction}`,
        async run(s) {
          const [x, y] = [s.random([tokens, heads, width], 1), s.zeros([tokens, heads, width])];
          const positions = s.ints(
            [tokens],
            Array.from({ length: tokens }, (_, i) => (i * 5) % 23),
          );
          const [cos, sin] = [s.random([23, rotary / 2], 2), s.random([23, rotary / 2], 3)];
          s.backend.rope({ x, positions, cos, sin, direction, y });
          s.backend.rope({ x, positions, cos, sin, direction, y: x });
          return { y: await s.read(y), x: await s.read(x) };
        },
      });
    }
  }
  for (const [count, vocabulary] of [
    [0, 5],
    [1, 2],
    [3, 17],
    [9, 1000],
    [2, 32003],
  ] as const) {
    cases.push({
      name: `crossEntropy [${count},${vocabulary}]`,
      async run(s) {
        const logits = s.random([count, vocabulary], 1, 30);
        const targets = s.ints(
          [count],
          Array.from({ length: count }, (_, i) => (i * 31) % vocabulary),
        );
        const [loss, grad, again] = [s.zeros([count]), s.zeros([count, vocabulary]), s.zeros([count])];
        s.backend.crossEntropy({ logits, targets, loss, dLogits: grad, gradScale: 0.25 });
        s.backend.crossEntropy({ logits, targets, loss: again, dLogits: undefined, gradScale: 1 });
        s.backend.crossEntropy({ logits, targets, loss: again, dLogits: logits, gradScale: 0.25 });
        return {
          loss: await s.read(loss),
          grad: await s.read(grad),
          again: await s.read(again),
          inPlace: await s.read(logits),
        };
      },
    });
  }
  for (const n of [1, 63, 1000]) {
    for (const clipped of [false, true]) {
      cases.push({
        name: `adamw n=${n} ${clipped ? "clipped" : "unclipped"}`,
        async run(s) {
          const [params, grads, m, v] = [s.random([n], 1), s.random([n], 2), s.zeros([n]), s.zeros([n])];
          const sumSquares = s.zeros([1]);
          s.backend.sumSquares({ x: grads, out: sumSquares });
          for (let step = 1; step <= 3; step++) {
            s.backend.adamw({
              params,
              grads,
              m,
              v,
              step,
              learningRate: 1e-2,
              beta1: 0.9,
              beta2: 0.99,
              epsilon: 1e-8,
              weightDecay: 0.1,
              clipSumSquares: clipped ? sumSquares : undefined,
              maxNorm: 0.5,
            });
          }
          return { params: await s.read(params), m: await s.read(m), v: await s.read(v) };
        },
      });
    }
  }
  return cases;
}

function attentionCases(): KernelCase[] {
  const shapes: {
    lengths: [number, number][];
    heads: number;
    kvHeads: number;
    width: number;
    window: number;
  }[] = [
    { lengths: [[1, 1]], heads: 1, kvHeads: 1, width: 2, window: 0 },
    {
      lengths: [
        [5, 5],
        [1, 1],
        [9, 9],
      ],
      heads: 4,
      kvHeads: 2,
      width: 8,
      window: 0,
    },
    {
      lengths: [
        [70, 70],
        [33, 33],
      ],
      heads: 3,
      kvHeads: 1,
      width: 64,
      window: 0,
    },
    { lengths: [[131, 131]], heads: 2, kvHeads: 2, width: 34, window: 0 },
    {
      lengths: [
        [40, 40],
        [7, 7],
      ],
      heads: 2,
      kvHeads: 1,
      width: 16,
      window: 5,
    },
    { lengths: [[150, 150]], heads: 2, kvHeads: 1, width: 128, window: 64 },
  ];
  const cases: KernelCase[] = shapes.map(({ lengths, heads, kvHeads, width, window }) => ({
    attention: true,
    name: `attention and backward ${JSON.stringify(lengths)} heads ${heads}/${kvHeads} width ${width} window ${window}`,
    async run(s) {
      const tokens = lengths.reduce((sum, l) => sum + l[0], 0);
      const [q, k, v] = [
        s.random([tokens, heads, width], 1, 2),
        s.random([tokens, kvHeads, width], 2, 2),
        s.random([tokens, kvHeads, width], 3),
      ];
      const [out, lse] = [s.zeros([tokens, heads, width]), s.zeros([tokens, heads])];
      const segments = s.segments(lengths);
      const scale = 1 / Math.sqrt(width);
      s.backend.attention({ q, k, v, segments, scale, window, out, lse });
      const dOut = s.random([tokens, heads, width], 4);
      const [dq, dk, dv] = [s.random(q.shape, 5), s.random(k.shape, 6), s.random(v.shape, 7)];
      s.backend.attentionBackward({ q, k, v, out, lse, dOut, segments, scale, window, dq, dk, dv });
      return {
        out: await s.read(out),
        lse: await s.read(lse),
        dq: await s.read(dq),
        dk: await s.read(dk),
        dv: await s.read(dv),
      };
    },
  }));
  for (const window of [0, 6]) {
    cases.push({
      attention: true,
      name: `attention over a cache, window ${window}`,
      async run(s) {
        // Three sequences: one decodes a token, one continues a prompt, one starts.
        const segments = s.segments([
          [1, 37],
          [4, 9],
          [12, 12],
        ]);
        const [q, k, v] = [
          s.random([17, 4, 32], 1, 2),
          s.random([58, 2, 32], 2, 2),
          s.random([58, 2, 32], 3),
        ];
        const [out, lse] = [s.zeros([17, 4, 32]), s.zeros([17, 4])];
        s.backend.attention({ q, k, v, segments, scale: 0.2, window, out, lse });
        return { out: await s.read(out), lse: await s.read(lse) };
      },
    });
  }
  for (const [heads, kvHeads, width, window] of [
    [9, 3, 64, 0],
    [4, 4, 16, 70],
    [2, 1, 80, 150],
    [8, 1, 128, 0],
  ] as const) {
    cases.push({
      attention: true,
      name: `attention of decoding, heads ${heads}/${kvHeads} width ${width} window ${window}`,
      async run(s) {
        // Few rows each, over more keys than one part of the work holds, exactly as many, and few.
        const lengths: [number, number][] = [
          [1, 301],
          [1, 64],
          [heads === 8 ? 1 : 2, 129],
          [1, 1],
        ];
        const segments = s.segments(lengths);
        const queries = lengths.reduce((sum, [q]) => sum + q, 0);
        const keys = lengths.reduce((sum, [, k]) => sum + k, 0);
        const q = s.random([queries, heads, width], 1, 2);
        const [k, v] = [s.random([keys, kvHeads, width], 2, 2), s.random([keys, kvHeads, width], 3)];
        const [out, lse] = [s.zeros([queries, heads, width]), s.zeros([queries, heads])];
        s.backend.attention({ q, k, v, segments, scale: 1 / Math.sqrt(width), window, out, lse });
        return { out: await s.read(out), lse: await s.read(lse) };
      },
    });
  }
  return cases;
}

function linearCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  const shapes = [
    [0, 5, 7],
    [1, 3, 5],
    [1, 130, 257],
    [4, 64, 64],
    [7, 33, 65],
    [48, 96, 80],
    [130, 200, 300],
    [65, 516, 1030],
  ] as const;
  // Few rows, as decoding has them: only the forward product is another one.
  for (const [tokens, inputs, outputs] of [
    [2, 192, 19],
    [8, 160, 30],
  ] as const) {
    cases.push({
      name: `linear of few rows [${tokens},${inputs}]x[${outputs},${inputs}]`,
      product: true,
      async run(s) {
        const x = s.random([tokens, inputs], 1);
        const weight = s.random([outputs, inputs], 2, 1, "bf16");
        const y = s.zeros([tokens, outputs]);
        s.backend.linear(x, [{ weight, y }]);
        return { y: await s.read(y) };
      },
    });
  }
  for (const [tokens, inputs, outputs] of shapes) {
    for (const dtype of ["f32", "bf16"] as const) {
      cases.push({
        name: `linear frozen ${dtype} [${tokens},${inputs}]x[${outputs},${inputs}] with bias and residual, and dx`,
        product: true,
        async run(s) {
          const x = s.random([tokens, inputs], 1);
          const weight = s.random([outputs, inputs], 2, 1, dtype === "f32" ? s.backend.floatType : dtype);
          const [bias, residual, y] = [
            s.random([outputs], 3),
            s.random([tokens, outputs], 4),
            s.zeros([tokens, outputs]),
          ];
          s.backend.linear(x, [{ weight, bias, residual, y }]);
          const plain = s.zeros([tokens, outputs]);
          s.backend.linear(x, [{ weight, y: plain }]);
          const dy = s.random([tokens, outputs], 5);
          const [dx, more] = [s.random([tokens, inputs], 6), s.random([tokens, inputs], 7)];
          s.backend.linearBackward(undefined, [{ weight, dy }], dx, false);
          s.backend.linearBackward(undefined, [{ weight, dy }], more, true);
          return {
            y: await s.read(y),
            plain: await s.read(plain),
            dx: await s.read(dx),
            more: await s.read(more),
          };
        },
      });
    }
    cases.push({
      name: `linear trained [${tokens},${inputs}]x[${outputs},${inputs}]`,
      product: true,
      async run(s) {
        const x = s.random([tokens, inputs], 1);
        const [weight, y, dy] = [
          s.random([outputs, inputs], 2),
          s.zeros([tokens, outputs]),
          s.random([tokens, outputs], 5),
        ];
        s.backend.linear(x, [{ weight, y }]);
        const [dx, dWeight, dBias] = [
          s.zeros([tokens, inputs]),
          s.random([outputs, inputs], 8),
          s.random([outputs], 9),
        ];
        s.backend.linearBackward(x, [{ weight, dy, dWeight, dBias }], dx, false);
        return {
          y: await s.read(y),
          dx: await s.read(dx),
          dWeight: await s.read(dWeight),
          dBias: await s.read(dBias),
        };
      },
    });
    for (const rank of [1, 4, 8, 19]) {
      for (const p of [0, 0.25]) {
        if (rank > Math.min(inputs, outputs) || (rank !== 8 && p > 0)) continue;
        cases.push({
          name: `linear with adapters of rank ${rank}, dropout ${p}, two parts [${tokens},${inputs}]x[${outputs}]`,
          product: true,
          async run(s) {
            const x = s.random([tokens, inputs], 1);
            const parts = [outputs, Math.max(rank, outputs - 3)].map((width, i) => {
              const adapter = {
                a: s.random([rank, inputs], 20 + i),
                b: s.random([width, rank], 30 + i),
                scale: 0.5 + i,
                dropout: p > 0 ? { p, seed: 42, stream: i } : undefined,
                u: s.zeros([tokens, rank]),
              };
              return {
                weight: s.random([width, inputs], 40 + i),
                y: s.zeros([tokens, width]),
                dy: s.random([tokens, width], 50 + i),
                residual: i === 0 ? s.random([tokens, width], 60) : undefined,
                adapter: {
                  ...adapter,
                  dA: s.random([rank, inputs], 70 + i),
                  dB: s.random([width, rank], 80 + i),
                },
              };
            });
            s.backend.linear(x, parts);
            const dx = s.random([tokens, inputs], 90);
            s.backend.linearBackward(x, parts, dx, true);
            const outputsRead: Outputs = { dx: await s.read(dx) };
            for (const [i, part] of parts.entries()) {
              outputsRead[`y${i}`] = await s.read(part.y);
              outputsRead[`u${i}`] = await s.read(part.adapter.u);
              outputsRead[`dA${i}`] = await s.read(part.adapter.dA);
              outputsRead[`dB${i}`] = await s.read(part.adapter.dB);
            }
            return outputsRead;
          },
        });
      }
    }
  }
  return [...cases, ...quantizedCases()];
}

/** Random codes, scales and a codebook: any 16 values must work, for the codebook is data. */
function quantizedCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const [tokens, inputs, outputs] of [
    [1, 64, 40],
    [3, 65, 33],
    [1, 130, 257],
    [1, 1152, 9],
    [2, 256, 7],
    [5, 192, 21],
    [8, 192, 6],
    [40, 96, 80],
    [70, 320, 130],
  ] as const) {
    const few = tokens <= 8 && inputs > 130; // rows of whole blocks, as decoding reads them
    for (const blockSize of few ? [64] : [32, 64, 256]) {
      for (const nested of few ? [true] : [false, true]) {
        cases.push({
          name: `linear quantised [${tokens},${inputs}]x[${outputs},${inputs}] blocks of ${blockSize}${nested ? ", nested" : ""}`,
          product: true,
          async run(s) {
            const count = inputs * outputs;
            const blocks = Math.ceil(count / blockSize);
            const random = new Random(5);
            const bytes = (n: number) => {
              const buffer = s.zeros([n], "u8");
              s.backend.write(
                buffer.buffer,
                Uint8Array.from({ length: n }, () => random.nextInt(256)),
              );
              return buffer;
            };
            const weight = {
              kind: "quantized" as const,
              shape: [outputs, inputs] as const,
              codes: bytes(Math.ceil(count / 2)),
              codebook: s.random([16], 11, 1, "f32"),
              blockSize,
              absmax: nested ? bytes(blocks) : s.random([blocks], 12, 1, "f32"),
              nested: nested
                ? {
                    codebook: s.random([256], 13, 1, "f32"),
                    absmax: s.random([Math.ceil(blocks / 256)], 14, 1, "f32"),
                    blockSize: 256,
                    offset: 0.125,
                  }
                : undefined,
            };
            const [x, y, dy, dx] = [
              s.random([tokens, inputs], 1),
              s.zeros([tokens, outputs]),
              s.random([tokens, outputs], 2),
              s.zeros([tokens, inputs]),
            ];
            s.backend.linear(x, [{ weight, y }]);
            s.backend.linearBackward(undefined, [{ weight, dy }], dx, false);
            return { y: await s.read(y), dx: await s.read(dx) };
          },
        });
      }
    }
  }
  return cases;
}

export const kernelCases: KernelCase[] = [
  ...elementwiseCases(),
  ...rowCases(),
  ...attentionCases(),
  ...linearCases(),
  ...quantizedStateCases(),
];
