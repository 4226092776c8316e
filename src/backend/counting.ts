// A backend without memory and without arithmetic: it counts what a computation allocates, category by category, and
// every kernel is a no-op. The real model, optimizer and trainer run on it in milliseconds whatever the model's size,
// so the ledger it ends with is what the same run will need (memory/predict-memory.ts). It is no device: it is not in
// the registry, and what read() returns are zeros.
//
// Devices count the sizes that they were asked for, without rounding (cpu.ts), and so does this one. Kernels' own
// scratch space is in no device's ledger: of it, the largest packed operand of a product is noted here, and what else a
// process holds is in memory/process-memory.ts.

import { elementCount } from "../tensor/tensor.ts";
import { BugError } from "../util/errors.ts";
import type { Backend, Precision } from "./backend.ts";
import { forEachKernel } from "./contract.ts";
import { Ledger, type MemoryCategory } from "./ledger.ts";
import { checkedKernels } from "./operand-check.ts";

const ignore = (): void => {};

export interface CountingBackend extends Backend {
  /** The most that the CPU backend packs of activations or their gradients for one product. */
  readonly packedBytes: number;
}

/** As kMostPackedBytes in native/gemm/engines.h: longer operands are packed stretch by stretch. */
const mostPackedBytes = 64 * 2 ** 20;

/** Opens a counting backend that keeps frozen matrices as a device of this precision would, which may widen bf16. */
export function openCounting(precision: Precision, widensBf16 = false): CountingBackend {
  const memory = new Ledger();
  const live = new Map<number, { readonly sizeBytes: number; readonly category: MemoryCategory }>();
  let lastId = 0;
  let packedBytes = 0;
  const pack = (elements: number) => {
    const sizeBytes = elements * (precision === "fp32" ? 4 : 2);
    packedBytes = Math.max(packedBytes, Math.min(sizeBytes, mostPackedBytes));
  };
  return {
    // Operands are checked as on a device: a plan finds what a run would trip over.
    ...checkedKernels(
      forEachKernel(() => ignore),
      "f32",
    ),
    linear: (x) => pack(elementCount(x.shape)),
    linearBackward: (_x, parts) => pack(parts.reduce((sum, { dy }) => sum + elementCount(dy.shape), 0)),
    groupedLinear: (x, { few }) => {
      if (!few) pack(elementCount(x.shape));
    },
    groupedLinearBackward: (_x, _rows, { dy }) => pack(elementCount(dy.shape)),
    get packedBytes() {
      return packedBytes;
    },
    name: "counting",
    description: `counts allocations, ${precision} products`,
    precision,
    floatType: "f32",
    holdsNothing: true,
    holdsBlocks: true,
    cacheTypes: ["f32", "bf16", "f16", "u8"],
    ...(widensBf16 ? { widensBf16 } : {}),
    rowsAlike: { few: 16, many: true, piece: 64 },
    get liveBytes() {
      return memory.liveBytes;
    },
    get peakBytes() {
      return memory.peakBytes;
    },
    ledger: () => memory.report(),
    allocate(sizeBytes, category) {
      const id = ++lastId;
      live.set(id, { sizeBytes, category });
      memory.add(category, sizeBytes);
      return { id, sizeBytes };
    },
    write: ignore,
    read: async (buffer, offset = 0, sizeBytes = buffer.sizeBytes - offset) => new Uint8Array(sizeBytes),
    free(buffer) {
      const entry = live.get(buffer.id);
      if (!entry) throw new BugError("counting backend: a buffer was freed twice");
      live.delete(buffer.id);
      memory.remove(entry.category, entry.sizeBytes);
    },
    close: () => live.clear(),
  };
}
