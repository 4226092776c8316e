// The reference backend: plain loops over JavaScript arrays, sums in double, results stored in f32 or (for
// gradient checks) f64. It defines correct for every other backend; it is never fast. The kernels are under
// reference/.

import type { Backend, BackendFactory } from "./backend.ts";
import { checkedKernels } from "./operand-check.ts";
import { attention, attentionBackward, cachedAttention, storeRows } from "./reference/attention.ts";
import { columnKernels } from "./reference/columns.ts";
import { elementwiseKernels } from "./reference/elementwise.ts";
import { groupedLinear, groupedLinearBackward } from "./reference/grouped.ts";
import { linear, linearBackward } from "./reference/linear.ts";
import { ReferenceMemory } from "./reference/memory.ts";
import { quantize4bit } from "./reference/quantized.ts";
import { recurrentKernels } from "./reference/recurrent.ts";
import { routerKernels } from "./reference/router.ts";
import { simpleKernels } from "./reference/simple.ts";
import { updateKernels } from "./reference/updates.ts";

/** Opens a reference backend whose activations are f32 or f64. */
export function openReference(floatType: "f32" | "f64" = "f32"): Backend {
  const memory = new ReferenceMemory();
  return {
    name: "reference",
    description: `plain loops, ${floatType}`,
    precision: "fp32",
    floatType,
    holdsBlocks: true,
    cacheTypes: [floatType, "bf16", "f16", "u8"],
    rowsAlike: { few: 16, many: true, piece: 64 },
    get liveBytes() {
      return memory.ledger.liveBytes;
    },
    get peakBytes() {
      return memory.ledger.peakBytes;
    },
    ledger: () => memory.ledger.report(),
    allocate: (sizeBytes, category) => memory.allocate(sizeBytes, category),
    write: (buffer, data, offset = 0) => memory.bytesOf(buffer).set(data, offset),
    read: async (buffer, offset = 0, sizeBytes = buffer.sizeBytes - offset) =>
      memory.bytesOf(buffer).slice(offset, offset + sizeBytes),
    free: (buffer) => memory.free(buffer),
    settle() {},
    close: () => memory.clear(),

    ...checkedKernels(
      {
        ...simpleKernels(memory),
        ...elementwiseKernels(memory),
        ...updateKernels(memory),
        ...columnKernels(memory),
        ...recurrentKernels(memory),
        ...routerKernels(memory),
        attention: (operands) => attention(memory, operands),
        cachedAttention: (operands) => cachedAttention(memory, operands),
        storeRows: (operands) => storeRows(memory, operands),
        attentionBackward: (operands) => attentionBackward(memory, operands),
        quantize4bit: (operands) => quantize4bit(memory, operands),
      },
      floatType,
    ),
    linear: (x, parts) => linear(memory, x, parts),
    linearBackward: (...args) => linearBackward(memory, ...args),
    groupedLinear: (...args) => groupedLinear(memory, ...args),
    groupedLinearBackward: (...args) => groupedLinearBackward(memory, ...args),
  };
}

export const reference: BackendFactory = {
  name: "reference",
  open: async () => openReference("f32"),
};
