// Linear layers, forward and backward: every weight type, few rows and many, biases, residuals, adapters with dropout.
// Their calls carry lists of parts, so their operands are made here. Odd shapes for the native engine alone are in
// test/native/linear-cases.ts.

import { linear as linearOp } from "../../../src/autograd/ops/linear.ts";
import { Random } from "../../../src/util/rng.ts";
import type { Stage } from "../stage.ts";
import type { GradientCase, KernelCase, KernelSpec, Outputs, SpeedCase } from "./case.ts";

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
  return cases;
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

const gradients: GradientCase[] = [
  {
    name: "linear with bias, residual, two adapters and dropout",
    inputs: [
      [5, 6],
      [5, 4],
    ],
    parameters: [[4, 6], [4], [2, 6], [4, 2], [3, 6], [2, 6], [3, 2], [4, 3]],
    build(_s, tape, [x, r], [w, bias, a, b, w2, a2, b2, w3]) {
      const [y, z] = linearOp(tape, x!, [
        { weight: { parameter: w! }, bias: bias!, residual: r!, adapter: { a: a!, b: b!, scale: 0.7 } },
        {
          weight: { parameter: w2! },
          adapter: { a: a2!, b: b2!, scale: 2, dropout: { p: 0.3, seed: 3, stream: 4 } },
        },
      ]);
      return linearOp(tape, z!, [{ weight: { parameter: w3! }, residual: y! }])[0]!;
    },
  },
];

/** Layers of the 135M shape under an adapter of rank 8, and its head. */
function speed(backward: boolean): SpeedCase[] {
  return (
    [
      [512, 576, 1536, 8],
      [512, 1536, 576, 8],
      [512, 576, 576, 8],
      [170, 576, 49152, 0],
      [1, 576, 1536, 0],
    ] as const
  ).map(([t, inputs, outputs, rank]) => ({
    product: true,
    name: `${backward ? "linearBackward" : "linear"} t=${t} in=${inputs} out=${outputs} bf16${rank ? ` r=${rank}` : ""}`,
    flops: 2 * t * (inputs * outputs + (backward ? 2 : 1) * rank * (inputs + outputs)),
    prepare(s: Stage): ReturnType<SpeedCase["prepare"]> {
      const [x, y, dx] = [s.random([t, inputs], 1), s.random([t, outputs], 2), s.zeros([t, inputs])];
      const weight = s.random([outputs, inputs], 3, 0.05, "bf16");
      const adapter = rank
        ? {
            ...{ a: s.random([rank, inputs], 4), b: s.random([outputs, rank], 5), scale: 2 },
            ...{ u: s.zeros([t, rank]), dA: s.zeros([rank, inputs]), dB: s.zeros([outputs, rank]) },
          }
        : undefined;
      if (backward) {
        const part = { weight, dy: y, adapter };
        const call = () => s.backend.linearBackward(rank ? x : undefined, [part], dx, false);
        return { call, outputs: { dx } };
      }
      return { call: () => s.backend.linear(x, [{ weight, y, adapter }]), outputs: { y } };
    },
  }));
}

export const linear: KernelSpec = {
  name: "linear",
  cases: [...linearCases(), ...quantizedCases()],
  gradients,
  speed: speed(false),
  threads: [...linearCases(), ...quantizedCases()].filter(({ name }) =>
    /quantised \[70,|adapters of rank 8.*\[130,|trained \[130,/.test(name),
  ),
};
/** Its cases are linear's: each runs both. */
export const linearBackward: KernelSpec = {
  name: "linearBackward",
  cases: [],
  speed: speed(true),
  threads: [],
};
