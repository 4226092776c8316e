// Quantisation to 4 bits: every registered quantiser, whole and partial blocks, odd counts, extreme values; bit for bit.

import { quantizers } from "../../../src/quant/index.ts";
import { Random } from "../../../src/util/rng.ts";
import type { Stage } from "../stage.ts";
import { type Call, casesOf, type KernelSpec, speedOf } from "./case.ts";

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

type Quantizer = (typeof quantizers)[keyof typeof quantizers];

const call = (
  { name, thresholds, codeByRank }: Quantizer,
  blockSize: number,
  count: number,
  type: "f32" | "bf16" | "f16",
): Call<"quantize4bit"> => ({
  sizes: { count },
  given: { thresholds, codeByRank, blockSize },
  label: `${name} ${type}`,
  make(s: Stage) {
    // f16 ends at 65504.
    const values = awkward(count).map((value) => (type === "f16" ? Math.max(-1, Math.min(1, value)) : value));
    return { x: s.values([count], values, type) };
  },
});

export const quantize4bit: KernelSpec = {
  name: "quantize4bit",
  cases: casesOf(
    "quantize4bit",
    Object.values(quantizers).flatMap((quantizer) =>
      [32, 64, 4096].flatMap((blockSize) => [
        ...[1, 31, 64, 200, 1001, 9999].map((count) => call(quantizer, blockSize, count, "f32")),
        ...(["bf16", "f16"] as const).map((type) => call(quantizer, blockSize, 1001, type)),
      ]),
    ),
    { exact: true },
  ),
  speed: speedOf("quantize4bit", [call(quantizers.nf4, 64, 576 * 1536, "bf16")]),
  threads: casesOf("quantize4bit", [call(quantizers.nf4, 64, 50_003, "f32")]),
};
