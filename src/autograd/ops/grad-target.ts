// Where a kernel that overwrites puts a value's gradient, whether or not something added to it before.

import type { Tensor } from "../../backend/backend.ts";
import type { Tape, Value } from "../tape.ts";

/** Memory the kernel may overwrite for a value's gradient, and what to do with it afterwards. */
export function gradTarget(tape: Tape, value: Value): { tensor: Tensor; finish(): void } {
  if (value.needsGrad && !value.grad) return { tensor: tape.gradOf(value).tensor, finish: () => {} };
  const tensor = tape.allocateTensor(value.shape, "activations");
  return {
    tensor,
    finish() {
      if (value.grad) tape.backend.addInPlace({ x: tensor, y: value.grad });
      tape.backend.free(tensor.buffer);
    },
  };
}
