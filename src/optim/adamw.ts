// AdamW (Loshchilov & Hutter 2019) over the flat trainable buffer; the arithmetic is a kernel, where the moments live
// is paging.ts's.

import type { Backend, Tensor } from "../backend/backend.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { rows, viewOf } from "../tensor/tensor.ts";
import { clipOperands, type Optimizer, type OptimizerOptions, type Trainables } from "./optimizer.ts";
import { residentState } from "./paging.ts";

export function adamw(
  backend: Backend,
  { data, grad }: Trainables,
  options: OptimizerOptions,
  memory = residentState(backend),
): Optimizer {
  const { beta1, beta2, epsilon, weightDecay } = options;
  const state = (): Tensor => {
    const buffer = memory.allocate(Math.max(4, data.shape[0]! * dtypeBytes[data.dtype]));
    return viewOf(buffer, data.shape, data.dtype);
  };
  const [m, v] = [state(), state()];
  return {
    update(step, learningRate, clip) {
      return memory.forEachPiece([m, v], (begin, end, pieces) => {
        backend.adamw({
          ...{ params: rows(data, begin, end), grads: rows(grad, begin, end), m: pieces[0]!, v: pieces[1]! },
          ...{ step, learningRate, beta1, beta2, epsilon, weightDecay, ...clipOperands(clip) },
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
