// How far a backend may be from the reference in double precision, by kind of case and precision of its products. Read by
// backend.test.ts and, on machines without a test runner, by bench/gpu/conform.mjs.

import type { Backend } from "../../src/backend/backend.ts";
import type { KernelCase } from "./cases/case.ts";

// Relative to the largest magnitude of each output. f32 sums of a few thousand terms stay within 2e-5; products of
// inputs rounded to bf16 (8 bits of mantissa, each within 2^-9) within 1.5e-2; f16 (11 bits) within 2e-3.
const floatTolerance = 2e-5;
const productTolerance = { fp32: 2e-5, bf16: 1.5e-2, fp16: 2e-3 };
// Inputs are rounded, and P and dS too. The CPU does so only in sets with bf16 instructions (test/native/attention.test.ts).
const attentionTolerance = { fp32: 2e-5, bf16: 1.5e-2, fp16: 4e-3 };

export function toleranceOf({ exact, product, attention }: KernelCase, backend: Backend): number {
  if (exact) return 0;
  if (attention) return attentionTolerance[backend.precision];
  return product ? productTolerance[backend.precision] : floatTolerance;
}

/** Largest difference over the largest magnitude; infinite where one side is not finite and the other is. */
export function worstDifference(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  let scale = 1e-6;
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(actual[i], expected[i]) || actual[i] === expected[i]) continue;
    const difference = Math.abs(actual[i]! - expected[i]!);
    if (!(difference < Number.POSITIVE_INFINITY)) return Number.POSITIVE_INFINITY;
    worst = Math.max(worst, difference);
  }
  for (const value of expected) if (Number.isFinite(value)) scale = Math.max(scale, Math.abs(value));
  return worst / scale;
}
