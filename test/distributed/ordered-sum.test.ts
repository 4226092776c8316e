// The sum of a step's gradients on one rank: each from zero, added in order, to the last bit. Several ranks are
// e2e/ranks.test.ts's.

import { expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { single } from "../../src/distributed/collective.ts";
import { orderedSum } from "../../src/distributed/ordered-sum.ts";
import { viewOf } from "../../src/tensor/tensor.ts";

const parts = [
  [1e8, -0, 3, 0.1],
  [1, -0, 3e-8, 0.2],
  [-1e8, -0, -3, 0.7],
].map((values) => Float32Array.from(values));

function inOrder(lists: readonly Float32Array[]): Float32Array {
  const sum = lists[0]!.slice();
  for (const list of lists.slice(1))
    for (const [i, value] of list.entries()) sum[i] = Math.fround(sum[i]! + value);
  return sum;
}

it.each([1, 2, 3])("adds %i gradients in order, whatever lay there before", async (count) => {
  const backend = openReference("f32");
  const grad = viewOf(backend.allocate(16, "gradients"), [4], "f32");
  const sum = orderedSum(backend, grad, single);
  const write = (values: Float32Array) => backend.write(grad.buffer, new Uint8Array(values.slice().buffer));
  write(Float32Array.of(9, 9, 9, 9));
  await sum.run(count, false, (index) => write(parts[index]!));
  const bytes = await backend.read(grad.buffer);
  expect(new Float32Array(bytes.slice().buffer)).toEqual(inOrder(parts.slice(0, count)));
  // A second call goes on from what the first left.
  await sum.run(1, true, () => write(parts[0]!));
  const more = await backend.read(grad.buffer);
  expect(new Float32Array(more.slice().buffer)).toEqual(inOrder([...parts.slice(0, count), parts[0]!]));
  sum.free();
  backend.free(grad.buffer);
  expect(backend.liveBytes).toBe(0);
});

it("leaves zeros of a step without any", async () => {
  const backend = openReference("f32");
  const grad = viewOf(backend.allocate(16, "gradients"), [4], "f32");
  await orderedSum(backend, grad, single).run(0, false, () => {});
  expect([...(await backend.read(grad.buffer))]).toEqual(Array(16).fill(0));
});
