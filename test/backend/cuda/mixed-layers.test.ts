// Layers that share x, mixed at random: weights of every kind in blocks of any size, ranks, dropout on some, residuals in place,
// gradients wanted or not, few rows and many; in fp32, where an error shows.

import { expect, it } from "vitest";
import type { Backend, LinearGradPart, LinearPart, Matrix, Tensor } from "../../../src/backend/backend.ts";
import { openCuda } from "../../../src/backend/cuda.ts";
import { openReference } from "../../../src/backend/reference.ts";
import { Random } from "../../../src/util/rng.ts";
import "../../conformance/backends.ts";
import { Stage } from "../../conformance/stage.ts";

/** As test/conformance/backend.test.ts has it. */
const tolerance = 2e-5;

/** Choices of one mix: equal seeds make equal mixes on every backend. */
class Mixer {
  private readonly random: Random;
  private tensors = 0;
  constructor(
    readonly stage: Stage,
    private readonly seed: number,
  ) {
    this.random = new Random(seed, 5);
  }

  pick<T>(list: readonly T[]): T {
    return list[this.random.nextInt(list.length)]!;
  }

  tensor(shape: readonly number[], dtype?: "f32" | "bf16" | "f16"): Tensor {
    return this.stage.random(shape, this.seed * 100 + this.tensors++, 1, dtype);
  }

  maybe(shape: readonly number[]): Tensor | undefined {
    return this.pick([true, false]) ? this.tensor(shape) : undefined;
  }

  private bytes(count: number): Tensor {
    return this.stage.bytes(
      [count],
      Uint8Array.from({ length: count }, () => this.random.nextInt(256)),
    );
  }

  weight(outputs: number, inputs: number): Matrix {
    const kind = this.pick(["f32", "bf16", "f16", "codes", "codes", "nested"] as const);
    if (kind === "f32") return this.tensor([outputs, inputs]);
    if (kind === "bf16" || kind === "f16") return this.tensor([outputs, inputs], kind);
    const [blockSize, nestedSize] = [this.pick([32, 50, 64, 128, 256]), this.pick([64, 100, 256])];
    const blocks = Math.ceil((outputs * inputs) / blockSize);
    const codes = this.bytes(Math.ceil((outputs * inputs) / 2));
    const base = { kind: "quantized", shape: [outputs, inputs], blockSize, codes } as const;
    const codebook = this.tensor([16], "f32");
    if (kind === "codes") return { ...base, codebook, absmax: this.tensor([blocks], "f32") };
    const absmax = this.tensor([Math.ceil(blocks / nestedSize)], "f32");
    const nested = { codebook: this.tensor([256], "f32"), absmax, blockSize: nestedSize, offset: 0.3 };
    return { ...base, codebook, absmax: this.bytes(blocks), nested };
  }

  part(tokens: number, inputs: number, index: number): LinearPart & LinearGradPart {
    const outputs = this.pick([1, 5, 8, 32, 40, 63, 130]);
    const rank = this.pick([0, 1, 4, 8, 9, 16, 40]);
    const adapter = {
      a: this.tensor([rank, inputs]),
      b: this.tensor([outputs, rank]),
      scale: 0.7,
      dropout: this.pick([undefined, { p: 0.3, seed: 77, stream: index }, { p: 0, seed: 1, stream: 2 }]),
      u: this.stage.zeros([tokens, rank]),
      dA: this.maybe([rank, inputs]),
      dB: this.maybe([outputs, rank]),
    };
    const residual = this.maybe([tokens, outputs]);
    return {
      weight: this.weight(outputs, inputs),
      bias: this.maybe([outputs]),
      residual,
      y: (residual && this.pick([residual, undefined])) ?? this.stage.zeros([tokens, outputs]),
      adapter: rank > 0 ? adapter : undefined,
      dy: this.tensor([tokens, outputs]),
      dWeight: this.maybe([outputs, inputs]),
      dBias: this.maybe([outputs]),
    };
  }
}

async function mixOf(backend: Backend, seed: number): Promise<Record<string, Float32Array>> {
  const stage = new Stage(backend);
  const mixer = new Mixer(stage, seed);
  const tokens = mixer.pick([1, 2, 3, 7, 16, 17, 33, 65, 100]);
  const inputs = mixer.pick([3, 8, 24, 64, 65, 128, 192, 200]);
  const count = mixer.pick([1, 2, 3, 6]);
  const parts = Array.from({ length: count }, (_, i) => mixer.part(tokens, inputs, i));
  const [x, dx] = [mixer.tensor([tokens, inputs]), mixer.maybe([tokens, inputs])];
  backend.linear(x, parts);
  backend.linearBackward(x, parts, dx, mixer.pick([true, false]));
  const found: Record<string, Float32Array> = {};
  const read = async (name: string, tensor?: Tensor) => {
    if (tensor) found[name] = await stage.read(tensor);
  };
  await read("dx", dx);
  for (const [i, { y, adapter, dWeight, dBias }] of parts.entries()) {
    const written = { y, u: adapter?.u, dA: adapter?.dA, dB: adapter?.dB, dWeight, dBias };
    for (const [name, tensor] of Object.entries(written)) await read(`${name} of part ${i}`, tensor);
  }
  await stage.checkGuards();
  stage.free();
  return found;
}

it.each([undefined, 5000])(
  "layers mixed at random are the reference's, weights in windows of %s bytes",
  async (windowBytes) => {
    const reference = openReference("f64");
    const backend = (await openCuda({ precision: "fp32", products: { windowBytes } }))!;
    for (let seed = 0; seed < 24; seed++) {
      const [found, wanted] = [await mixOf(backend, seed), await mixOf(reference, seed)];
      for (const [name, values] of Object.entries(wanted)) {
        let [worst, scale] = [0, 1e-6];
        for (const [i, value] of values.entries()) {
          worst = Math.max(worst, Math.abs(value - found[name]![i]!));
          scale = Math.max(scale, Math.abs(value));
        }
        expect(worst / scale, `mix ${seed}, ${name}`).toBeLessThanOrEqual(tolerance);
      }
      expect(backend.liveBytes).toBe(0);
    }
    backend.close();
  },
);
