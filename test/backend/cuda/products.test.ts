// Products of the CUDA backend on its emulator: every tile and both ways of decoding give the same bits, whatever ends inside a
// tile; and what is measured on a card is asked for once, kept, and distrusted when it is read.

import { describe, expect, it } from "vitest";
import type { Backend } from "../../../src/backend/backend.ts";
import type { MeasureChoice, ProductOptions } from "../../../src/backend/cuda/product-choices.ts";
import { openTuning, parseChoices } from "../../../src/backend/cuda/product-tuning.ts";
import type { Choice, Tile } from "../../../src/backend/cuda/product-types.ts";
import { openCuda } from "../../../src/backend/cuda.ts";
import { openReference } from "../../../src/backend/reference.ts";
import { Random } from "../../../src/util/rng.ts";
import "../../conformance/backends.ts";
import { Stage } from "../../conformance/stage.ts";

const open = async (precision: "bf16" | "fp32", products: ProductOptions): Promise<Backend> =>
  (await openCuda({ precision, products }))!;

type Outputs = Record<string, Float32Array>;

/** A layer over 4-bit weights with a bias, a residual and an adapter, forward and backward, and a trained one. */
async function layer(backend: Backend, tokens: number, inputs: number, outputs: number): Promise<Outputs> {
  const s = new Stage(backend);
  const random = new Random(3, 1);
  const bytes = (n: number) =>
    s.bytes(
      [n],
      Uint8Array.from({ length: n }, () => random.nextInt(256)),
    );
  const blocks = Math.ceil((inputs * outputs) / 64);
  const weight = {
    kind: "quantized" as const,
    shape: [outputs, inputs] as const,
    codes: bytes(Math.ceil((inputs * outputs) / 2)),
    codebook: s.random([16], 1, 1, "f32"),
    blockSize: 64,
    absmax: bytes(blocks),
    nested: {
      codebook: s.random([256], 2, 1, "f32"),
      absmax: s.random([Math.ceil(blocks / 256)], 3, 1, "f32"),
      blockSize: 256,
      offset: 0.25,
    },
  };
  const rank = 12;
  const adapter = {
    a: s.random([rank, inputs], 4),
    b: s.random([outputs, rank], 5),
    scale: 1.5,
    u: s.zeros([tokens, rank]),
    dA: s.random([rank, inputs], 6),
    dB: s.random([outputs, rank], 7),
  };
  const [x, residual, dy] = [
    s.random([tokens, inputs], 8),
    s.random([tokens, outputs], 9),
    s.random([tokens, outputs], 10),
  ];
  const [y, z, dx] = [s.zeros([tokens, outputs]), s.zeros([tokens, outputs]), s.random([tokens, inputs], 11)];
  const trained = s.random([outputs, inputs], 12);
  const [dWeight, dBias] = [s.random([outputs, inputs], 13), s.random([outputs], 14)];
  const part = { weight, adapter, bias: s.random([outputs], 15), residual, y };
  backend.linear(x, [part, { weight: trained, y: z }]);
  backend.linearBackward(
    x,
    [
      { weight, adapter, dy },
      { weight: trained, dy, dWeight, dBias },
    ],
    dx,
    true,
  );
  const found: Outputs = {};
  for (const [name, tensor] of Object.entries({
    y,
    z,
    dx,
    dWeight,
    dBias,
    u: adapter.u,
    dA: adapter.dA,
    dB: adapter.dB,
  }))
    found[name] = await s.read(tensor);
  await s.checkGuards();
  s.free();
  return found;
}

function expectNear(found: Outputs, wanted: Outputs, tolerance: number): void {
  for (const [name, values] of Object.entries(wanted)) {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const worst = values.reduce((most, value, i) => Math.max(most, Math.abs(value - found[name]![i]!)), 0);
    expect(worst / largest, name).toBeLessThanOrEqual(tolerance);
  }
}

/** Tokens, inputs, outputs: ends inside tiles every way; and sizes that are no multiples of anything. */
const shapes = [
  [150, 136, 264],
  [37, 72, 35],
] as const;

describe.each(shapes)("a layer on %i tokens, %i to %i", (tokens, inputs, outputs) => {
  it.each([
    ["bf16", 1.5e-2, ["128x256", "128x128", "64x64", "64x32"]],
    ["fp32", 2e-5, ["128x128", "64x64", "64x32"]],
  ] as const)(
    "in %s has the same bits by every tile, decoded within or before",
    async (precision, tolerance, tiles) => {
      const wanted = await layer(openReference("f64"), tokens, inputs, outputs);
      const ways: ProductOptions[] = [
        {},
        ...tiles.map((forcedTile: Tile) => ({ forced: "expanded" as const, forcedTile })),
        ...(["128x128", "64x64"] as const).map((forcedTile) => ({ forced: "fused" as const, forcedTile })),
      ];
      let first: Outputs | undefined;
      for (const way of ways) {
        const backend = await open(precision, way);
        const found = await layer(backend, tokens, inputs, outputs);
        expect(backend.liveBytes).toBe(0);
        backend.close();
        expectNear(found, wanted, tolerance);
        first ??= found;
        expect(found, JSON.stringify(way)).toEqual(first);
      }
    },
  );
});

it.each([
  ["bf16", 1.5e-2],
  ["fp32", 2e-5],
] as const)("in %s a weight is expanded in windows", async (precision, tolerance) => {
  const backend = await open(precision, { forced: "expanded", windowBytes: 1000 });
  expectNear(await layer(backend, 20, 40, 301), await layer(openReference("f64"), 20, 40, 301), tolerance);
  backend.close();
});

it("multiplies by weights of f16, few rows and many", async () => {
  for (const tokens of [3, 30]) {
    const results: Float32Array[] = [];
    for (const backend of [openReference("f64"), await open("fp32", {})]) {
      const s = new Stage(backend);
      const [x, y] = [s.random([tokens, 24], 1), s.zeros([tokens, 10])];
      backend.linear(x, [{ weight: s.random([10, 24], 2, 1, "f16"), y }]);
      results.push(await s.read(y));
    }
    expectNear({ y: results[1]! }, { y: results[0]! }, 2e-5);
  }
});

describe("what is measured", () => {
  it("is asked once for every class of products, and never changes a result", async () => {
    const asked: string[] = [];
    const measure: MeasureChoice = (_gpu, { form, weight }, candidates) => {
      asked.push(`${form} ${"kind" in weight ? "codes" : weight.dtype}: ${candidates.length}`);
      return candidates.at(-1)!;
    };
    const backend = await open("bf16", { measure });
    const found = await layer(backend, 40, 72, 40);
    expect(await layer(backend, 40, 72, 40)).toEqual(found);
    backend.close();
    expect(asked).toEqual(["forward codes: 6", "forward f32: 4", "input codes: 6", "input f32: 4"]);
    const plain = await open("bf16", {});
    expect(await layer(plain, 40, 72, 40)).toEqual(found);
    plain.close();
  });

  it("is the quickest by the clock, kept under the card's name, and used the next time", async () => {
    let text: string | undefined;
    const store = {
      read: async () => text,
      write: async (written: string) => {
        text = written;
      },
    };
    // A clock by which every second candidate is quick.
    let calls = 0;
    const now = () => (calls++ % 16 < 8 ? 1000 * calls : calls);
    const tuning = await openTuning("a card", store, now);
    const backend = await open("bf16", tuning);
    const found = await layer(backend, 40, 72, 40);
    backend.close();
    await new Promise((done) => setTimeout(done, 20));
    const kept = parseChoices(text, "a card");
    expect(kept.size).toBe(4);
    expect(parseChoices(text, "another card").size).toBe(0);
    const again = await openTuning("a card", store, () => {
      throw new Error("measured again");
    });
    const second = await open("bf16", again);
    expect(await layer(second, 40, 72, 40)).toEqual(found);
    second.close();
  });

  it("is estimated where nothing can be measured", async () => {
    const full = await open("bf16", { measure: () => undefined });
    const plain = await open("bf16", {});
    expect(await layer(full, 40, 72, 40)).toEqual(await layer(plain, 40, 72, 40));
    full.close();
    plain.close();
  });

  it("reads nothing of what is not a choice", () => {
    const choice: Choice = { fused: true, tile: "64x64" };
    const text = JSON.stringify({
      card: { good: "fused 64x64", tile: "fused 65x64", way: "melted 64x64", number: 7, empty: "" },
      __proto__: { good: "fused 64x64" },
    });
    expect([...parseChoices(text, "card")]).toEqual([["good", choice]]);
    for (const wrong of [
      "",
      "{",
      "[]",
      "null",
      '{"card": 3}',
      '{"card": ["fused 64x64"]}',
      "x".repeat(2 ** 21),
    ])
      expect(parseChoices(wrong, "card").has("good"), wrong.slice(0, 20)).toBe(false);
    expect(parseChoices(text, "toString").size).toBe(0);
  });

  it("does not run a kept choice that this product cannot have", async () => {
    const known = new Map<string, Choice>();
    const measure: MeasureChoice = (_gpu, _product, candidates) => candidates[0]!;
    const first = await open("bf16", { known, measure });
    const found = await layer(first, 40, 72, 40);
    first.close();
    for (const key of known.keys()) known.set(key, { fused: true, tile: "64x32" });
    const second = await open("bf16", { known, measure });
    expect(await layer(second, 40, 72, 40)).toEqual(found);
    second.close();
  });
});
