// Calls that are not as the contract has them are refused by kernel and operand, on the backend that computes, the one
// that counts and the native one alike.

import { describe, expect, it } from "vitest";
import type { Backend, Operands, Tensor } from "../../src/backend/backend.ts";
import { openCounting } from "../../src/backend/counting.ts";
import { cpu } from "../../src/backend/cpu.ts";
import { openReference } from "../../src/backend/reference.ts";
import { rows } from "../../src/tensor/tensor.ts";
import { Stage } from "../conformance/stage.ts";

function ropeOperands(s: Stage): Operands<"rope"> {
  return {
    x: s.zeros([5, 2, 8]),
    positions: s.ints([5], [0, 1, 2, 3, 4]),
    cos: s.zeros([7, 4]),
    sin: s.zeros([7, 4]),
    direction: 1,
    y: s.zeros([5, 2, 8]),
  };
}

const backends: Record<string, () => Promise<Backend>> = {
  reference: async () => openReference(),
  counting: async () => openCounting("fp32"),
  cpu: () => cpu.open({ precision: "fp32" }) as Promise<Backend>,
};

describe.each(Object.keys(backends))("operands of kernels on %s", (name) => {
  const refuses = async (change: (s: Stage, good: Operands<"rope">) => object, message: string) => {
    const backend = await backends[name]!();
    const s = new Stage(backend);
    const good = ropeOperands(s);
    backend.rope(good);
    expect(() => backend.rope({ ...good, ...change(s, good) })).toThrow(message);
    backend.rope(good);
    s.free();
    backend.close();
  };

  it("refuses sizes that disagree", async () => {
    await refuses(
      (s) => ({ positions: s.ints([4], [0, 0, 0, 0]) }),
      "rope: positions has shape [4], not [t] with t = 5",
    );
    await refuses((s) => ({ sin: s.zeros([6, 4]) }), "rope: sin has shape [6,4]");
    await refuses((s) => ({ cos: s.zeros([7, 5]) }), "rope: cos has shape [7,5], not [p half<=headDim/2]");
    await refuses((s) => ({ x: s.zeros([5, 16]) }), "rope: x has shape [5,16]");
  });

  it("refuses other types, what is missing and what is no number", async () => {
    await refuses((s) => ({ positions: s.zeros([5]) }), "rope: positions is f32, not i32");
    await refuses(() => ({ cos: undefined }), "rope: cos is missing");
    await refuses(() => ({ direction: "1" }), "rope: direction is 1, not a number");
  });

  it("refuses a tensor beyond its buffer", async () => {
    await refuses(
      (_s, { y }) => ({ y: { ...y, byteOffset: 256 } }),
      "rope: y , [5,2,8], reaches beyond its buffer",
    );
  });

  it("lets an output be what it may be, and share memory with nothing else", async () => {
    const backend = await backends[name]!();
    const stage = new Stage(backend);
    const inPlace = ropeOperands(stage);
    expect(() => backend.rope({ ...inPlace, y: inPlace.x })).not.toThrow();
    stage.free();
    backend.close();
    await refuses((s) => {
      const both = s.zeros([9, 2, 8]);
      return { x: rows(both, 0, 5), y: rows(both, 4, 9) };
    }, "rope: y may not share memory with x");
    await refuses((_s, { cos }) => {
      const held: Tensor = { ...cos, shape: [1, 2, 8], dtype: "f32" };
      return { x: { ...held }, y: held, positions: { ...cos, shape: [1], dtype: "i32" } };
    }, "rope: y may not share memory with positions");
  });

  it("refuses sizes that a kernel does not take", async () => {
    const backend = await backends[name]!();
    const s = new Stage(backend);
    const call = (blockSize: number, scales: number) =>
      backend.quantize4bit({
        ...{
          x: s.zeros([100]),
          thresholds: new Array(15).fill(0),
          codeByRank: new Array(16).fill(0),
          blockSize,
        },
        ...{ codes: s.zeros([50], "u8"), absmax: s.zeros([scales], "f32") },
      });
    call(64, 2);
    expect(() => call(64, 3)).toThrow("quantize4bit: absmax has shape [3]");
    expect(() => call(33, 4)).toThrow("quantize4bit: blockSize is 33, where 2 to 4096 and a multiple of 2");
    expect(() => call(8192, 1)).toThrow("quantize4bit: blockSize is 8192");
    s.free();
    backend.close();
  });
});

it("a freed buffer and a missing operand are found", async () => {
  const backend = await cpu.open({ precision: "fp32" });
  const s = new Stage(backend!);
  const y = s.zeros([4]);
  s.free();
  expect(() => backend!.fill({ y, value: 1 })).toThrow("fill: y lies in a buffer that was freed");
  // @ts-expect-error a forgotten operand does not compile
  expect(() => backend!.scaleInPlace({ y })).toThrow("scaleInPlace: ");
  // @ts-expect-error nor does one that is optional and not named
  const forgotten: Operands<"crossEntropy"> = { logits: y, targets: y, loss: y, gradScale: 1 };
  expect(forgotten).toBeDefined();
  backend!.close();
});
