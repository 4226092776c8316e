// Rows multiplied by the sigmoid of a number each, forward and backward, by kernels that there are: the number is spread over
// its row by a product with ones.

import type { Tensor } from "../../backend/backend.ts";
import type { Tape, Value } from "../tape.ts";
import { gradTarget } from "./grad-target.ts";

/** sigmoid(score) * x, score [T, 1], x [T, C]. */
export function gateRows(tape: Tape, score: Value, x: Value): Value {
  const { backend } = tape;
  const y = tape.value(x.shape, x.needsGrad || score.needsGrad);
  /** Runs `use` with the scores spread over [T, C] and the ones that spread them. */
  const withSpread = (use: (spread: Tensor, ones: Tensor) => void) => {
    const ones = tape.allocateTensor([x.shape[1]!, 1], "workspace");
    const spread = tape.allocateTensor(x.shape, "workspace");
    backend.fill({ y: ones, value: 1 });
    backend.linear(score.data, [{ weight: ones, y: spread }]);
    use(spread, ones);
    backend.free(spread.buffer);
    backend.free(ones.buffer);
  };
  tape.record({
    name: "gateRows",
    inputs: [score, x],
    outputs: [y],
    saves: [score, x],
    forward: () =>
      withSpread((gate) => backend.gatedActivation({ activation: "sigmoid", gate, up: x.data, y: y.data })),
    backward: y.needsGrad
      ? () => {
          const dy = y.grad;
          if (!dy) return;
          const dx = gradTarget(tape, x);
          withSpread((spread, ones) => {
            backend.gatedActivationBackward({
              ...{ activation: "sigmoid", gate: spread, up: x.data, dy },
              ...{ dGate: spread, dUp: dx.tensor },
            });
            if (!score.needsGrad) return;
            const { tensor, accumulate } = tape.gradOf(score);
            backend.linearBackward(undefined, [{ weight: ones, dy: spread }], tensor, accumulate);
          });
          dx.finish();
        }
      : undefined,
  });
  return y;
}
