// AdamW (Loshchilov & Hutter 2019) over the flat trainable buffer; the arithmetic is a kernel.

import type { Backend, Tensor } from "../backend/backend.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import type { Optimizer, OptimizerOptions, Trainables } from "./optimizer.ts";

export function adamw(backend: Backend, parameters: Trainables, options: OptimizerOptions): Optimizer {
  const { data, grad } = parameters;
  const state = (): Tensor => {
    const tensor = viewOf(
      backend.allocate(Math.max(4, data.shape[0]! * dtypeBytes[data.dtype]), "optimizer"),
      data.shape,
      data.dtype,
    );
    backend.fill(tensor, 0);
    return tensor;
  };
  const [m, v] = [state(), state()];
  return {
    update(step, learningRate, clip) {
      backend.adamw({ ...options, params: data, grads: grad, m, v, step, learningRate, clip });
    },
    state: () => [
      { name: "m", tensor: m },
      { name: "v", tensor: v },
    ],
    free() {
      backend.free(m.buffer);
      backend.free(v.buffer);
    },
  };
}
