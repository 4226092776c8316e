// Kernel cases of quantised state: 4-bit weights (every registered quantiser, whole and partial blocks, odd counts,
// extreme values) and 8-bit AdamW. kernel-cases.ts collects them.

import { momentBlockSize } from "../../src/backend/backend.ts";
import { signedDynamicMap, unsignedDynamicMap } from "../../src/quant/dynamic-map.ts";
import { quantizers } from "../../src/quant/index.ts";
import { Random } from "../../src/util/rng.ts";
import type { KernelCase, Stage } from "./kernel-cases.ts";

export function quantizedStateCases(): KernelCase[] {
  return [...quantize4bitCases(), ...adamw8bitCases()];
}

/** Weights of each kind that a block can hold, one after the other. */
function awkward(count: number): Float32Array {
  const random = new Random(count, 5);
  return Float32Array.from({ length: count }, (_, i) => {
    const kind = Math.floor(i / 128) % 6;
    if (kind === 1) return 0;
    if (kind === 2) return -0.3;
    if (kind === 3) return random.nextNormal() * 1e-40;
    if (kind === 4) return random.nextNormal() * 3e37;
    if (kind === 5) return Math.round(random.nextNormal() * 4) / 8; // many exact midpoints of INT4's kind
    return random.nextNormal() * 0.02;
  });
}

function quantize4bitCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const quantizer of Object.values(quantizers)) {
    for (const blockSize of [32, 64, 4096]) {
      for (const count of [1, 31, 64, 200, 1001, 9999]) {
        for (const dtype of ["f32", "bf16", "f16"] as const) {
          if (dtype !== "f32" && count !== 1001) continue;
          cases.push({
            name: `quantize4bit ${quantizer.name} ${dtype} n=${count} blocks of ${blockSize}`,
            exact: true,
            async run(s) {
              const values = awkward(count);
              // f16 ends at 65504.
              if (dtype === "f16")
                for (let i = 0; i < count; i++) values[i] = Math.max(-1, Math.min(1, values[i]!));
              const x = s.values([count], values, dtype);
              const codes = s.zeros([Math.ceil(count / 2)], "u8");
              const absmax = s.zeros([Math.ceil(count / blockSize)], "f32");
              s.backend.quantize4bit({
                x,
                thresholds: quantizer.thresholds,
                codeByRank: quantizer.codeByRank,
                blockSize,
                codes,
                absmax,
              });
              return { codes: await s.read(codes), absmax: await s.read(absmax) };
            },
          });
        }
      }
    }
  }
  return cases;
}

function adamw8bitCases(): KernelCase[] {
  return [1, 255, 256, 700, 5000].flatMap((count) =>
    [false, true].map((clipped) => ({
      name: `adamw8bit n=${count} ${clipped ? "clipped" : "with non-finite gradients"}`,
      async run(s: Stage) {
        const blocks = Math.ceil(count / momentBlockSize);
        const [params, grads] = [s.random([count], 1), s.random([count], 2, 0.1)];
        const sumSquares = s.zeros([1]);
        s.backend.sumSquares({ x: grads, out: sumSquares });
        const u8 = (fill: number) => s.bytes([count], new Uint8Array(count).fill(fill));
        const [mCodes, vCodes] = [u8(127), u8(0)];
        const [mAbsmax, vAbsmax] = [s.zeros([blocks], "f32"), s.zeros([blocks], "f32")];
        const [mMap, vMap] = [
          s.values([256], signedDynamicMap, "f32"),
          s.values([256], unsignedDynamicMap, "f32"),
        ];
        const second = Float32Array.from({ length: count }, (_, i) =>
          clipped || i % 97 !== 5 ? Math.sin(i) : [Number.NaN, Number.POSITIVE_INFINITY][i % 2]!,
        );
        const constants = { learningRate: 1e-2, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1 };
        for (let step = 1; step <= 3; step++) {
          const update = step === 2 ? s.values([count], second) : grads;
          s.backend.adamw8bit({
            ...{ params, grads: update, mCodes, vCodes, mAbsmax, vAbsmax, mMap, vMap, step },
            ...constants,
            clipSumSquares: clipped ? sumSquares : undefined,
            maxNorm: 0.5,
          });
        }
        return {
          params: await s.read(params),
          mCodes: await s.read(mCodes),
          vCodes: await s.read(vCodes),
          mAbsmax: await s.read(mAbsmax),
          vAbsmax: await s.read(vAbsmax),
        };
      },
    })),
  );
}
