// Steps that are started before the numbers of those before them are there: on a device that works by itself they leave
// what steps one by one leave, to the last bit, and one that goes wrong holds back those after it until it was heard of.

import { expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";
import { assemble } from "../../src/data/assemble.ts";
import { Session, type StepResult } from "../../src/session/session.ts";
import { lateBackend } from "../backend/late-backend.ts";
import { openGolden } from "../conformance/model-case.ts";
import { loadModelGolden } from "../golden/load-golden.ts";

const batch = (step: number) => {
  const ids = Int32Array.from({ length: 9 }, (_, t) => (5 * step + 3 * t) % 128);
  const targetMask = new Uint8Array(9).fill(1, 1);
  return assemble([{ ids, targetMask, rowId: { file: "rows", line: step, unit: "line" } }]);
};

async function openSession(backend: Backend, optimizer: "adamw" | "lion" | "adamw8bit" = "adamw") {
  const loaded = await openGolden(backend, loadModelGolden("llama-mha"));
  return new Session(loaded, {
    ...{ method: "lora", rank: 4, alpha: 8, targets: "all-linear", optimizer, weightDecay: 0.1, seed: 3 },
  });
}

/** Everything that a step could change. */
async function stateOf(session: Session) {
  const { data } = session.parameters;
  const held = await Promise.all(
    session.optimizer.state().map(({ tensor, store }) => store.read(tensor.buffer)),
  );
  return [await session.backend.read(data.buffer), ...held];
}

it.each(["adamw", "lion", "adamw8bit"] as const)(
  "%s: steps started at once are steps one by one",
  async (name) => {
    const one = await openSession(openReference("f32"), name);
    const wanted: StepResult[] = [];
    for (let step = 1; step <= 5; step++)
      wanted.push(
        await one.trainStep([batch(step), batch(step + 9)], { learningRate: 1e-2, maxGradNorm: 0.1 }),
      );
    const backend = lateBackend(openReference("f32"));
    const session = await openSession(backend, name);
    const started = [];
    for (let step = 1; step <= 5; step++)
      started.push(
        await session.startStep([batch(step), batch(step + 9)], { learningRate: 1e-2, maxGradNorm: 0.1 }),
      );
    expect(backend.mostWaiting).toBe(5);
    expect(await Promise.all(started.map(({ numbers }) => numbers()))).toEqual(wanted);
    expect(wanted.every(({ updated }) => updated)).toBe(true);
    expect(session.steps).toBe(5);
    expect(await stateOf(session)).toEqual(await stateOf(one));
  },
);

it.each(["adamw", "lion", "adamw8bit"] as const)(
  "%s: what follows a step that went wrong waits",
  async (name) => {
    const backend = lateBackend(openReference("f32"));
    const session = await openSession(backend, name);
    const options = { learningRate: 1e-2, maxGradNorm: 0 };
    expect((await session.trainStep([batch(1)], options)).updated).toBe(true);
    const before = await stateOf(session);
    const { data } = session.parameters;
    const good = await backend.read(data.buffer);
    const spoilt = good.slice();
    new DataView(spoilt.buffer).setFloat32(0, Number.NaN, true);
    backend.write(data.buffer, spoilt);
    const bad = await session.startStep([batch(2)], options);
    // The weights are whole again, but what the second step would have left is not known yet.
    backend.write(data.buffer, good);
    const after = [
      await session.startStep([batch(3)], options),
      await session.startStep([batch(4)], options),
    ];
    expect(session.steps).toBe(4);
    const [second, third, fourth] = await Promise.all([bad, ...after].map(({ numbers }) => numbers()));
    expect(second!.loss).toBeNaN();
    expect(third!.loss).toBeGreaterThan(0);
    expect([second, third, fourth].map((step) => step!.updated)).toEqual([false, false, false]);
    expect(session.steps).toBe(1);
    expect(await stateOf(session)).toEqual(before);
    // It was heard of: updates go on, from the step that was not made.
    expect((await session.trainStep([batch(2)], options)).updated).toBe(true);
    const same = await openSession(openReference("f32"), name);
    for (let step = 1; step <= 2; step++) await same.trainStep([batch(step)], options);
    expect(session.steps).toBe(2);
    expect(await stateOf(session)).toEqual(await stateOf(same));
  },
);

it("forwardBackward() and step() give their own step's numbers", async () => {
  const backend = lateBackend(openReference("f32"));
  const session = await openSession(backend);
  const one = await openSession(openReference("f32"));
  for (let step = 1; step <= 3; step++) {
    const { loss } = await session.forwardBackward(batch(step));
    const { gradNorm, updated } = await session.step({ learningRate: 1e-2 });
    expect(await one.trainStep([batch(step)], { learningRate: 1e-2 })).toMatchObject({
      loss,
      gradNorm,
      updated,
    });
  }
  expect(await stateOf(session)).toEqual(await stateOf(one));
});

it("is not heard of before it is asked for, however long ago its numbers came", async () => {
  const backend = lateBackend(openReference("f32"), 0);
  const session = await openSession(backend);
  const options = { learningRate: 1e-2, maxGradNorm: 0 };
  const before = await stateOf(session);
  const { data } = session.parameters;
  const good = await backend.read(data.buffer);
  const spoilt = good.slice();
  new DataView(spoilt.buffer).setFloat32(0, Number.NaN, true);
  backend.write(data.buffer, spoilt);
  const bad = await session.startStep([batch(1)], options);
  backend.write(data.buffer, good);
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
  expect(backend.waiting).toBe(0);
  const next = await session.startStep([batch(2)], options);
  expect((await next.numbers()).updated).toBe(false);
  expect((await bad.numbers()).updated).toBe(false);
  expect(await stateOf(session)).toEqual(before);
});
