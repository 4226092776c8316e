// Reads quant.json: the formulas of its inputs, the same as `inputs` in tools/golden/quant.py, and its types.
// Not the quantiser: that is src/quant. Checked by load-golden.test.ts.

import { BugError } from "../../src/util/errors.ts";
import { randomBits } from "../../src/util/rng.ts";
import { type ByteArray, type FloatArray, floatsOf, readGolden } from "./load-golden.ts";

export interface QuantInput {
  readonly kind: string;
  readonly stream: number;
  readonly count: number;
  /** Only for kind "ties". */
  readonly input?: FloatArray;
}

export interface FourBitGolden extends QuantInput {
  readonly quantType: "nf4" | "fp4";
  readonly blockSize: number;
  /** High nibble: even element. */
  readonly codes: ByteArray;
  /** What the codes are multiplied by; of nested goldens, decoded from the next three. */
  readonly scales: FloatArray;
  readonly scaleCodes?: ByteArray;
  readonly nestedScales?: FloatArray;
  readonly nestedOffset?: number;
  /** Sum modulo 2^32 of the float32 words of the decoded values. */
  readonly dequantizedChecksum: number;
  readonly dequantized?: FloatArray;
}

export interface EightBitGolden extends QuantInput {
  readonly signed: boolean;
  readonly blockSize: number;
  readonly codes: ByteArray;
  readonly scales: FloatArray;
  readonly dequantizedChecksum: number;
}

export interface QuantGolden {
  readonly versions: Readonly<Record<string, string>>;
  readonly seed: number;
  readonly maps: Readonly<Record<"nf4" | "fp4" | "dynamicSigned" | "dynamicUnsigned", FloatArray>>;
  readonly fourBit: readonly FourBitGolden[];
  readonly eightBit: readonly EightBitGolden[];
}

export function loadQuantGolden(): QuantGolden {
  return readGolden<QuantGolden>("quant.json");
}

const formulas: Record<string, (u: number, i: number) => number> = {
  uniform: (u) => u,
  cubed: (u) => u * u * u,
  constant: () => -0.37,
  zero: () => 0,
  denormal: (u) => u * 1e-40,
  huge: (u) => u * 3e38,
  "zero-block": (u, i) => (i >= 64 && i < 128 ? 0 : u),
  outlier: (u, i) => (i % 64 === 5 ? 100 : u),
  positive: (u) => Math.abs(u * u * u),
};

/** The float32 values that a golden quantised: float64 formulas of u in [-1, 1), rounded once. */
export function quantInput(seed: number, golden: QuantInput): Float32Array {
  if (golden.input) return floatsOf(golden.input);
  const formula = formulas[golden.kind];
  if (!formula) throw new BugError(`quant golden: no formula named ${golden.kind}`);
  const values = new Float32Array(golden.count);
  const scratch = new Uint32Array(4);
  for (let i = 0; i < golden.count; i++) {
    values[i] = formula(randomBits(seed, golden.stream, i, scratch) / 2 ** 31 - 1, i);
  }
  return values;
}

/** Sum modulo 2^32 of the float32 words of `values`. */
export function checksumOf(values: Float32Array): number {
  let sum = 0;
  for (const word of new Uint32Array(values.buffer, values.byteOffset, values.length))
    sum = (sum + word) >>> 0;
  return sum;
}
