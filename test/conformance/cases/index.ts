// Every kernel's cases: what each family's file exports. A kernel that the contract has and no file has does not compile.

import type { Kernels } from "../../../src/backend/backend.ts";
import * as attention from "./attention.ts";
import * as cachedAttention from "./cached-attention.ts";
import type { KernelCase, KernelSpec } from "./case.ts";
import { chains } from "./chains.ts";
import * as columns from "./columns.ts";
import * as crossEntropy from "./cross-entropy.ts";
import * as elementwise from "./elementwise.ts";
import * as gatedActivation from "./gated-activation.ts";
import * as grouped from "./grouped.ts";
import * as linear from "./linear.ts";
import * as quantize4bit from "./quantize-4bit.ts";
import * as recurrent from "./recurrent.ts";
import * as reduce from "./reduce.ts";
import * as rmsNorm from "./rms-norm.ts";
import * as rope from "./rope.ts";
import * as router from "./router.ts";
import * as rows from "./rows.ts";
import * as softCap from "./soft-cap.ts";
import * as updates from "./updates.ts";

export const kernelSpecs: Readonly<Record<keyof Kernels, KernelSpec>> = {
  ...elementwise,
  ...reduce,
  ...rows,
  ...rmsNorm,
  ...rope,
  ...attention,
  cachedAttention: cachedAttention.cachedAttention,
  storeRows: cachedAttention.storeRows,
  ...recurrent,
  ...columns,
  ...gatedActivation,
  ...softCap,
  ...crossEntropy,
  ...updates,
  ...quantize4bit,
  ...linear,
  ...grouped,
  ...router,
};

export const kernelCases: readonly KernelCase[] = [
  ...Object.values(kernelSpecs).flatMap(({ cases }) => cases),
  ...chains,
];
