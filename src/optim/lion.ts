// Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms") over the flat trainable buffer: one moment, half of
// AdamW's state. Steps are as long as the learning rate in every direction, so it wants a smaller one than AdamW. The
// arithmetic is a kernel, where the moment lives is paging.ts's.

import { dtypeBytes } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import { defineOptimizer, updatePieces } from "./optimizer.ts";
import { residentState } from "./paging.ts";

export const lion = defineOptimizer(
  { about: "lion keeps one moment", defaults: { beta2: 0.99 }, rateFactor: 0.2 },
  (backend, parameters, { beta1, beta2, weightDecay }, memory = residentState(backend)) => {
    const { data } = parameters;
    const buffer = memory.allocate(Math.max(4, data.shape[0]! * dtypeBytes[data.dtype]));
    const m = viewOf(buffer, data.shape, data.dtype);
    return {
      update: (_step, learningRate, factor) =>
        updatePieces(parameters, memory, [m], { learningRate, weightDecay }, ({ state, ...piece }) => {
          backend.lion({ ...piece, m: state[0]!, beta1, beta2, factor });
        }),
      state: () => [{ name: "m", tensor: m, store: memory }],
      free: () => memory.free(buffer),
    };
  },
);
