// The guards of the stage find what they are there for.

import { expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { casesOf } from "./cases/case.ts";
import { Stage } from "./stage.ts";

it.each<[DType, number, number]>([
  ["f32", 3, 12],
  ["bf16", 3, 8],
  ["u8", 5, 8],
])("a write behind a tensor of %s is found", async (dtype, count, end) => {
  const backend = openReference();
  const stage = new Stage(backend);
  const tensor = stage.zeros([count], dtype);
  backend.write(tensor.buffer, new Uint8Array(end).fill(255));
  await stage.checkGuards();
  backend.write(tensor.buffer, new Uint8Array([0]), end);
  await expect(stage.checkGuards()).rejects.toThrow(`behind a tensor [${count}] ${dtype}`);
  stage.free();
});

it("a kernel that changes its input, or leaves its output, is found by its case", async () => {
  const backend = openReference();
  const [addition] = casesOf("addInPlace", [{ sizes: { n: 4 } }]);
  const wrong = { ...backend, addInPlace: ({ x }: { x: typeof y }) => backend.fill({ y: x, value: 7 }) };
  const y = new Stage(backend).zeros([1]);
  await expect(addition!.run(new Stage(wrong))).rejects.toThrow("addInPlace changed its input x");
  const [filling] = casesOf("fill", [{ sizes: { n: 4 }, given: { value: 0 } }]);
  const outputs = await filling!.run(new Stage({ ...backend, fill: () => {} }));
  expect([...outputs.y!].some((value) => value !== 0)).toBe(true);
});
