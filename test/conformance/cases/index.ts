// Every kernel's cases. A kernel that the contract has and this list has not does not compile.

import type { Kernels } from "../../../src/backend/backend.ts";
import { adamw, adamw8bit } from "./adamw.ts";
import { attention, attentionBackward } from "./attention.ts";
import type { KernelCase, KernelSpec } from "./case.ts";
import { crossEntropy } from "./cross-entropy.ts";
import { addInPlace, cast, fill, fillUniform, scaleInPlace } from "./elementwise.ts";
import { gatedActivation, gatedActivationBackward } from "./gated-activation.ts";
import { linear, linearBackward } from "./linear.ts";
import { quantize4bit } from "./quantize-4bit.ts";
import { countNonFinite, sum, sumSquares } from "./reduce.ts";
import { rmsNorm, rmsNormBackward } from "./rms-norm.ts";
import { rope } from "./rope.ts";
import { embedding, embeddingBackward, gatherRows, scatterRows } from "./rows.ts";

export const kernelSpecs: Readonly<Record<keyof Kernels, KernelSpec>> = {
  fill,
  cast,
  addInPlace,
  scaleInPlace,
  fillUniform,
  gatherRows,
  scatterRows,
  sum,
  sumSquares,
  countNonFinite,
  embedding,
  embeddingBackward,
  rmsNorm,
  rmsNormBackward,
  rope,
  attention,
  attentionBackward,
  gatedActivation,
  gatedActivationBackward,
  crossEntropy,
  adamw,
  adamw8bit,
  quantize4bit,
  linear,
  linearBackward,
};

export const kernelCases: readonly KernelCase[] = Object.values(kernelSpecs).flatMap(({ cases }) => cases);
