// Attention and its backward pass over packed segments, over caches and of decoding, with windows and grouped heads; and
// rope's gradient, which needs a reader.

import { attention as attentionOp, rope } from "../../../src/autograd/ops/attention.ts";
import { linear } from "../../../src/autograd/ops/linear.ts";
import type { Tape, Value } from "../../../src/autograd/tape.ts";
import type { Tensor } from "../../../src/tensor/tensor.ts";
import type { Stage } from "../stage.ts";
import type { GradientCase, KernelCase, KernelSpec, SpeedCase } from "./case.ts";

function attentionCases(): KernelCase[] {
  const shapes: {
    lengths: [number, number][];
    heads: number;
    kvHeads: number;
    width: number;
    window: number;
    softcap?: number;
    sinks?: boolean;
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
    { lengths: [[40, 40]], heads: 4, kvHeads: 2, width: 8, window: 0, softcap: 1.5 },
    {
      lengths: [
        [70, 70],
        [33, 33],
      ],
      heads: 4,
      kvHeads: 1,
      width: 64,
      window: 20,
      softcap: 2,
      sinks: true,
    },
    { lengths: [[9, 9]], heads: 2, kvHeads: 2, width: 16, window: 0, sinks: true },
    { lengths: [[40, 40]], heads: 2, kvHeads: 1, width: 16, window: 0, sinks: true },
    { lengths: [[90, 90]], heads: 2, kvHeads: 1, width: 256, window: 0 },
    { lengths: [[66, 66]], heads: 2, kvHeads: 1, width: 512, window: 0, softcap: 4 },
  ];
  const cases: KernelCase[] = shapes.map(
    ({ lengths, heads, kvHeads, width, window, softcap = 0, sinks: withSinks }) => ({
      attention: true,
      name: `attention and backward ${JSON.stringify(lengths)} heads ${heads}/${kvHeads} width ${width} window ${window}${softcap > 0 ? ` softcap ${softcap}` : ""}${withSinks ? " sinks" : ""}`,
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
        const sinks = withSinks ? s.random([heads], 8, 2) : undefined;
        const dSinks = sinks && s.random([heads], 9);
        s.backend.attention({ q, k, v, segments, scale, window, softcap, sinks, out, lse });
        const dOut = s.random([tokens, heads, width], 4);
        const [dq, dk, dv] = [s.random(q.shape, 5), s.random(k.shape, 6), s.random(v.shape, 7)];
        s.backend.attentionBackward({
          q,
          k,
          v,
          out,
          lse,
          dOut,
          segments,
          scale,
          window,
          softcap,
          sinks,
          dq,
          dk,
          dv,
          dSinks,
        });
        return {
          out: await s.read(out),
          lse: await s.read(lse),
          dq: await s.read(dq),
          dk: await s.read(dk),
          dv: await s.read(dv),
          ...(dSinks ? { dSinks: await s.read(dSinks) } : {}),
        };
      },
    }),
  );
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
        s.backend.attention({
          q,
          k,
          v,
          segments,
          scale: 0.2,
          window,
          softcap: 0,
          sinks: undefined,
          out,
          lse,
        });
        return { out: await s.read(out), lse: await s.read(lse) };
      },
    });
  }
  for (const [heads, kvHeads, width, window, softcap] of [
    [9, 3, 64, 0, 0],
    [4, 4, 16, 70, 0],
    [2, 1, 80, 150, 0],
    [8, 1, 128, 0, 0],
    [4, 2, 64, 70, 2],
    [2, 1, 512, 0, 0],
    [3, 1, 10, 0, 3],
  ] as const) {
    cases.push({
      attention: true,
      name: `attention of decoding, heads ${heads}/${kvHeads} width ${width} window ${window}${softcap > 0 ? ` softcap ${softcap} sinks` : ""}`,
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
        const sinks = softcap > 0 ? s.random([heads], 8, 2) : undefined;
        s.backend.attention({
          q,
          k,
          v,
          segments,
          scale: 1 / Math.sqrt(width),
          window,
          softcap,
          sinks,
          out,
          lse,
        });
        return { out: await s.read(out), lse: await s.read(lse) };
      },
    });
  }
  return cases;
}

const gradients: GradientCase[] = [
  ...(
    [
      [0, 2],
      [3, 2],
      [0, 4],
    ] as const
  ).map(([window, headWidth]) => ({
    name: `rope of 2 of ${headWidth} elements and attention over packed sequences, window ${window}`,
    inputs: [
      [9, 8],
      [9, 4],
      [9, 4],
    ],
    build(s: Stage, tape: Tape, [q, k, v]: Value[]) {
      const positions = s.ints([9], [0, 1, 2, 3, 4, 0, 1, 2, 3]);
      const tables = { cos: s.random([5, 1], 1), sin: s.random([5, 1], 2) };
      const identity = s.values(
        [8, 8],
        Float64Array.from({ length: 64 }, (_, i) => (i % 9 === 0 ? 1 : 0)),
      );
      const q2 = linear(tape, q!, [{ weight: { frozen: identity } }])[0]!;
      const rotated = rope(tape, q2, headWidth, positions, tables);
      return attentionOp(tape, rotated, k!, v!, {
        heads: 8 / headWidth,
        kvHeads: 4 / headWidth,
        headWidth,
        segments: s.segments([
          [5, 5],
          [4, 4],
        ]),
        window,
        scale: 0.8,
      });
    },
  })),
  {
    name: "attention with a soft cap and sinks",
    inputs: [
      [7, 8],
      [7, 4],
      [7, 4],
    ],
    build(s: Stage, tape: Tape, [q, k, v]: Value[]) {
      return attentionOp(tape, q!, k!, v!, {
        ...{ heads: 4, kvHeads: 2, headWidth: 2, window: 0, scale: 0.9, softcap: 0.7 },
        segments: s.segments([
          [4, 4],
          [3, 3],
        ]),
        sinks: { name: "sinks", tensor: s.random([4], 5) },
      });
    },
  },
];

/** Two sequences of 256 of the 135M shape, and of the 1.1B shape. */
function speed(backward: boolean): SpeedCase[] {
  return (
    [
      [9, 3, 64],
      [32, 4, 64],
    ] as const
  ).map(([heads, kvHeads, width]) => ({
    attention: true,
    name: `${backward ? "attentionBackward" : "attention"} 2 x 256 heads ${heads}/${kvHeads} width ${width}`,
    // Half of all pairs are visible; two products forward, five backward.
    flops: (2 * 256 * 257 * heads * width * 2 * (backward ? 5 : 2)) / 2,
    prepare(s: Stage): ReturnType<SpeedCase["prepare"]> {
      const [q, out, dOut, dq] = [1, 2, 3, 4].map((seed) => s.random([512, heads, width], seed)) as Four;
      const [k, v, dk, dv] = [5, 6, 7, 8].map((seed) => s.random([512, kvHeads, width], seed)) as Four;
      const lse = s.zeros([512, heads]);
      const segments = s.segments([
        [256, 256],
        [256, 256],
      ]);
      const shared = {
        q,
        k,
        v,
        segments,
        scale: 1 / Math.sqrt(width),
        window: 0,
        softcap: 0,
        sinks: undefined,
        out,
        lse,
      };
      s.backend.attention(shared);
      if (!backward) return { call: () => s.backend.attention(shared), outputs: { out, lse } };
      return {
        call: () => s.backend.attentionBackward({ ...shared, dOut, dq, dk, dv, dSinks: undefined }),
        outputs: { dq, dk, dv },
      };
    },
  }));
}

type Four = [Tensor, Tensor, Tensor, Tensor];

export const attention: KernelSpec = {
  name: "attention",
  cases: attentionCases(),
  gradients,
  speed: speed(false),
  threads: attentionCases(),
};
/** Its cases are attention's: each runs both. */
export const attentionBackward: KernelSpec = {
  name: "attentionBackward",
  cases: [],
  speed: speed(true),
  threads: [],
};
