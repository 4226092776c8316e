// AdamW (Loshchilov & Hutter 2019) over the flat trainable buffer; the arithmetic is a kernel, where the moments live
// is paging.ts's.

import type { Backend, Tensor } from "../backend/backend.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import { type Optimizer, type OptimizerOptions, type Trainables, updatePieces } from "./optimizer.ts";
import { residentState } from "./paging.ts";

export function adamw(
  backend: Backend,
  parameters: Trainables,
  options: OptimizerOptions,
  memory = residentState(backend),
): Optimizer {
  const { data } = parameters;
  const { beta1, beta2, epsilon, weightDecay } = options;
  const state = (): Tensor => {
    const buffer = memory.allocate(Math.max(4, data.shape[0]! * dtypeBytes[data.dtype]));
    return viewOf(buffer, data.shape, data.dtype);
  };
  const [m, v] = [state(), state()];
  return {
    update(step, learningRate, factor) {
      const rate = { learningRate, weightDecay };
      return updatePieces(parameters, memory, [m, v], rate, ({ state: [m, v], ...piece }) => {
        backend.adamw({
          ...{ ...piece, m: m!, v: v! },
          ...{ step, beta1, beta2, epsilon, factor },
        });
      });
    },
    state: () => [
      { name: "m", tensor: m, store: memory },
      { name: "v", tensor: v, store: memory },
    ],
    free() {
      memory.free(m.buffer);
      memory.free(v.buffer);
    },
  };
}
