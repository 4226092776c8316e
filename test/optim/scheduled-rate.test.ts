// The learning rate of an update is the one it is called with, whatever else the options hold: a run's own options
// carry its highest rate, and once that won over the schedule.

import { describe, expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { FlatParameters } from "../../src/nn/parameters.ts";
import { optimizers } from "../../src/optim/index.ts";

describe.each(Object.entries(optimizers))("%s", (_name, create) => {
  it("updates nothing at learning rate 0", async () => {
    const backend = openReference("f32");
    const parameters = new FlatParameters(backend, [{ name: "w", shape: [8] }], "adapters");
    const weight = parameters.entries[0]!;
    parameters.set(
      weight,
      Float32Array.from({ length: 8 }, (_, i) => i + 1),
    );
    backend.fill({ y: parameters.grad, value: 0.5 });
    const given = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, learningRate: 1 };
    const optimizer = create(backend, parameters, given);
    await optimizer.update(1, 0, undefined);
    expect([...(await parameters.read(weight))]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    await optimizer.update(2, 0.1, undefined);
    expect((await parameters.read(weight))[0]).not.toBe(1);
  });
});
