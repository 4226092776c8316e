// The CUDA backend's edges, on the emulator: what it says where it cannot run, what the emulator catches, and how a failure of the
// driver's reaches a user.

import { afterEach, describe, expect, it } from "vitest";
import type { Backend } from "../../../src/backend/backend.ts";
import { cuda, describeCuda, hasCard, openCuda, whyNoCard } from "../../../src/backend/cuda.ts";
import { UserError } from "../../../src/util/errors.ts";
import "../../conformance/backends.ts";
import { commandsOf, statusOf } from "./status.ts";

const settings = ["COMPUTE", "DRIVER", "MEMORY", "CARDS"].map((name) => `LOWRANK_EMULATED_${name}`);
const emulated = (name: string, value: string) => {
  process.env[`LOWRANK_EMULATED_${name}`] = value;
};
afterEach(() => {
  for (const name of settings) delete process.env[name];
});

const open = async (): Promise<Backend> => (await openCuda({}))!;
const tensor = (backend: Backend, count: number) => ({
  ...{ buffer: backend.allocate(4 * count, "workspace"), byteOffset: 0 },
  ...{ shape: [count], dtype: "f32" as const },
});

describe("where it cannot run it says why in one sentence", () => {
  it.each([
    ["COMPUTE", "75", /^no card here has compute capability 8\.0 or higher.*CUDA emulator \(7\.5\)/],
    [
      "DRIVER",
      "12020",
      /^this NVIDIA driver is too old \(CUDA 12\.2, and 12\.4 is needed\): install version 550/,
    ],
    ["CARDS", "0", /^the NVIDIA driver finds no card/],
  ])("%s=%s", async (name, value, sentence) => {
    emulated(name, value);
    expect(await cuda.open({})).toBeNull();
    expect(cuda.reason!()).toMatch(sentence);
    expect(describeCuda().problem).toMatch(sentence);
  });

  it("the emulator is no card for auto", () => {
    expect(hasCard()).toBe(false);
    expect(describeCuda()).toMatchObject({ emulated: true, problem: "", driverVersion: "12.4" });
  });

  it("auto says a word where it takes another backend", () => {
    emulated("COMPUTE", "75");
    expect(hasCard()).toBe(false);
    for (const tookGpu of [true, false])
      expect(whyNoCard(tookGpu)).toMatch(/^not CUDA: no card here has compute capability 8\.0 or higher/);
  });

  it("fp16 is another backend's", async () => {
    await expect(cuda.open({ precision: "fp16" })).rejects.toThrow(
      /"fp16" is not available on the CUDA backend/,
    );
  });

  it("a card without memory says so, and works on when some is given back", async () => {
    emulated("MEMORY", `${64 * 2 ** 20}`);
    const backend = await open();
    const kept = backend.allocate(32 * 2 ** 20, "weights");
    expect(() => backend.allocate(48 * 2 ** 20, "optimizer")).toThrow(
      /out of memory: 50\.3 MB for optimizer were asked for, beside 33\.6 MB in use, .*--paged/,
    );
    expect(() => backend.allocate(48 * 2 ** 20, "activations")).toThrow(UserError);
    backend.free(kept);
    backend.free(backend.allocate(60 * 2 ** 20, "activations"));
    expect(backend.liveBytes).toBe(0);
    backend.close();
  });
});

describe("the emulator catches", () => {
  it("a write behind a block", async () => {
    const backend = await open();
    const [first] = [tensor(backend, 100), tensor(backend, 100)];
    commandsOf(backend).launch("fill", [1], { y: first, n: 101, value: 1 });
    await expect(backend.read(first.buffer)).rejects.toThrow(/illegal|ILLEGAL/);
    // As on a card, nothing goes on after it.
    await expect(backend.read(first.buffer)).rejects.toThrow(UserError);
    backend.close();
    const other = await open();
    other.close();
  });

  it("memory that is used before it is written, or after it was freed: it reads as NaN", async () => {
    const backend = await open();
    const x = tensor(backend, 4);
    const before = new Float32Array((await backend.read(x.buffer)).buffer);
    expect([...before]).toEqual([Number.NaN, Number.NaN, Number.NaN, Number.NaN]);
    backend.fill({ y: x, value: 1 });
    const address = x.buffer.id;
    backend.free(x.buffer);
    const again = tensor(backend, 4);
    expect(again.buffer.id).toBe(address);
    expect(new Float32Array((await backend.read(again.buffer)).buffer)[0]).toBeNaN();
    backend.close();
  });
});

it("reads come in the order of the launches, however many are under way", async () => {
  const backend = await open();
  const x = tensor(backend, 1000);
  const reads: Promise<Uint8Array>[] = [];
  for (let i = 0; i < 100; i++) {
    backend.fill({ y: x, value: i });
    reads.push(backend.read(x.buffer, 4 * i, 4));
  }
  const values = (await Promise.all(reads)).map((bytes) => new Float32Array(bytes.slice().buffer)[0]);
  expect(values).toEqual(Array.from({ length: 100 }, (_, i) => i));
  backend.close();
});

it("runs of the same kernels within a step are replayed each with its own arguments", async () => {
  const backend = await open();
  const tensors = Array.from({ length: 1600 }, () => tensor(backend, 1));
  await backend.read(tensors[0]!.buffer);
  const step = async (value: number) => {
    for (const [i, y] of tensors.entries()) backend.fill({ y, value: i === 7 ? value : i });
    return new Float32Array((await backend.read(tensors[7]!.buffer)).slice().buffer)[0];
  };
  for (let i = 0; i < 2; i++) expect(await step(i)).toBe(i);
  const before = statusOf(backend);
  for (let i = 2; i < 5; i++) expect(await step(i)).toBe(i);
  const after = statusOf(backend);
  expect(after.replayed - before.replayed).toBe(3 * 1600);
  // Only the one that differs is told anew.
  expect(after.changed - before.changed).toBe(3);
  backend.close();
});

it("writes of every size arrive, also when more is under way than is staged at a time", async () => {
  const backend = await open();
  const sizes = [4, 1000, 2 ** 20, 2 ** 20 + 4, 3 * 2 ** 20];
  const buffers = Array.from({ length: 25 }, (_, i) => {
    const sizeBytes = sizes[i % sizes.length]!;
    const data = new Uint8Array(sizeBytes).fill(i + 1);
    const buffer = backend.allocate(sizeBytes, "weights");
    backend.write(buffer, data);
    data.fill(0); // the caller's memory is its own again
    return buffer;
  });
  for (const [i, buffer] of buffers.entries()) {
    const bytes = await backend.read(buffer);
    expect(bytes.every((byte) => byte === i + 1)).toBe(true);
  }
  backend.close();
});

it("a closed backend refuses, and closing twice is nothing", async () => {
  const backend = await open();
  const x = tensor(backend, 4);
  backend.close();
  backend.close();
  await expect(backend.read(x.buffer)).rejects.toThrow();
});
