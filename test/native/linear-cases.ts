// Linear layers of odd shapes for the native engine's tests: every weight type, several parts, adapters with and without
// dropout, biases, residuals. A case runs on any backend and returns what it computed. Comparison: linear.test.ts.

import type { Adapter, Backend, LinearGradPart, LinearPart, Matrix } from "../../src/backend/backend.ts";
import { type BlockTypeName, blockTypes, encodeGguf } from "../../src/quant/ggml/index.ts";
import { type DType, decodeToF32, encodeFrom } from "../../src/tensor/dtype.ts";
import { elementCount, type Tensor, viewOf } from "../../src/tensor/tensor.ts";
import { Random } from "../../src/util/rng.ts";

export type WeightType = "f32" | "bf16" | "nf4" | "nf4-nested" | BlockTypeName;

export interface PartSpec {
  readonly out: number;
  readonly weight: WeightType;
  readonly bias?: boolean;
  /** "y": the residual is y itself. */
  readonly residual?: "own" | "y";
  readonly rank?: number;
  readonly dropout?: number;
  readonly blockSize?: number;
}

export interface LinearSpec {
  readonly t: number;
  readonly in: number;
  readonly parts: readonly PartSpec[];
}

export interface BackwardOptions {
  readonly dx: "none" | "=" | "+=";
  readonly adapters: boolean;
  readonly weights: boolean;
}

type Outputs = Record<string, Float32Array>;

/** Codes are arbitrary here, so any increasing table will do; it is asymmetric, to catch swapped halves. */
const codebook = Float32Array.from({ length: 16 }, (_, i) => (i - 6.5) / 9 + 0.01 * i * i * 0.1);

class Tensors {
  private readonly made: Tensor[] = [];
  private readonly random: Random;
  constructor(
    private readonly backend: Backend,
    seed: number,
  ) {
    this.random = new Random(seed, 5);
  }

  bytes(shape: readonly number[], dtype: DType, bytes: Uint8Array): Tensor {
    const buffer = this.backend.allocate(Math.max(4, bytes.byteLength), "workspace");
    this.backend.write(buffer, bytes);
    const tensor = viewOf(buffer, shape, dtype);
    this.made.push(tensor);
    return tensor;
  }

  uniform(shape: readonly number[], bound = 1, dtype: DType = "f32"): Tensor {
    const values = Float32Array.from(
      { length: elementCount(shape) },
      () => (2 * this.random.nextFloat() - 1) * bound,
    );
    return this.bytes(shape, dtype, encodeFrom(values, dtype));
  }

  private codes(count: number): Tensor {
    return this.bytes(
      [count],
      "u8",
      Uint8Array.from({ length: count }, () => this.random.nextInt(256)),
    );
  }

  matrix(rows: number, columns: number, spec: PartSpec): Matrix {
    if (spec.weight === "f32" || spec.weight === "bf16")
      return this.uniform([rows, columns], 0.5, spec.weight);
    if (spec.weight !== "nf4" && spec.weight !== "nf4-nested") return this.blocks(rows, columns, spec.weight);
    const blockSize = spec.blockSize ?? 64;
    const blocks = Math.ceil((rows * columns) / blockSize);
    const codes = this.codes(Math.ceil((rows * columns) / 2));
    const table = this.bytes([16], "f32", encodeFrom(codebook, "f32"));
    const base = { kind: "quantized", shape: [rows, columns], codes, codebook: table, blockSize } as const;
    if (spec.weight === "nf4") {
      const scales = Float32Array.from({ length: blocks }, () => 0.2 + 0.4 * this.random.nextFloat());
      return { ...base, absmax: this.bytes([blocks], "f32", encodeFrom(scales, "f32")) };
    }
    const nestedBlock = 16;
    const nested = {
      codebook: this.uniform([256], 0.1),
      absmax: this.uniform([Math.ceil(blocks / nestedBlock)], 1),
      blockSize: nestedBlock,
      offset: 0.4,
    };
    return { ...base, absmax: this.codes(blocks), nested };
  }

  private blocks(rows: number, columns: number, type: BlockTypeName): Matrix {
    const values = Float32Array.from(
      { length: rows * columns },
      () => (2 * this.random.nextFloat() - 1) ** 3 + 0.1,
    );
    const bytes = encodeGguf(values, type, columns);
    return { kind: "blocks", type, shape: [rows, columns], blocks: this.bytes([bytes.length], "u8", bytes) };
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    const count = elementCount(tensor.shape);
    return decodeToF32(await this.backend.read(tensor.buffer, 0, 4 * count), "f32");
  }

  free(): void {
    for (const tensor of this.made) this.backend.free(tensor.buffer);
  }
}

function adapterOf(
  tensors: Tensors,
  spec: PartSpec,
  t: number,
  columns: number,
  stream: number,
): Adapter | undefined {
  if (!spec.rank) return undefined;
  return {
    a: tensors.uniform([spec.rank, columns], 0.3),
    b: tensors.uniform([spec.out, spec.rank], 0.3),
    scale: 1.7,
    dropout: spec.dropout ? { p: spec.dropout, seed: 2 ** 40 + 17, stream } : undefined,
    u: tensors.uniform([t, spec.rank]),
  };
}

export async function runForward(backend: Backend, spec: LinearSpec): Promise<Outputs> {
  const tensors = new Tensors(backend, 1);
  const x = tensors.uniform([spec.t, spec.in]);
  const parts: LinearPart[] = spec.parts.map((part, i) => {
    const y = tensors.uniform([spec.t, part.out]);
    return {
      weight: tensors.matrix(part.out, spec.in, part),
      bias: part.bias ? tensors.uniform([part.out]) : undefined,
      residual:
        part.residual === "y" ? y : part.residual === "own" ? tensors.uniform([spec.t, part.out]) : undefined,
      adapter: adapterOf(tensors, part, spec.t, spec.in, i),
      y,
    };
  });
  backend.linear(x, parts);
  const outputs: Outputs = {};
  for (const [i, part] of parts.entries()) {
    outputs[`y${i}`] = await tensors.read(part.y);
    if (part.adapter) outputs[`u${i}`] = await tensors.read(part.adapter.u);
  }
  tensors.free();
  return outputs;
}

export async function runBackward(
  backend: Backend,
  spec: LinearSpec,
  options: BackwardOptions,
): Promise<Outputs> {
  const tensors = new Tensors(backend, 2);
  const x = tensors.uniform([spec.t, spec.in]);
  const dx = options.dx === "none" ? undefined : tensors.uniform([spec.t, spec.in]);
  const parts: LinearGradPart[] = spec.parts.map((part, i) => {
    const adapter = adapterOf(tensors, part, spec.t, spec.in, i);
    const gradients = options.adapters &&
      adapter && { dA: tensors.uniform(adapter.a.shape), dB: tensors.uniform(adapter.b.shape) };
    return {
      weight: tensors.matrix(part.out, spec.in, part),
      dy: tensors.uniform([spec.t, part.out]),
      adapter: adapter && { ...adapter, ...gradients },
      dWeight: options.weights ? tensors.uniform([part.out, spec.in]) : undefined,
      dBias: options.weights ? tensors.uniform([part.out]) : undefined,
    };
  });
  backend.linearBackward(options.adapters || options.weights ? x : undefined, parts, dx, options.dx === "+=");
  const outputs: Outputs = {};
  if (dx) outputs.dx = await tensors.read(dx);
  for (const [i, part] of parts.entries()) {
    for (const [name, tensor] of Object.entries({
      dA: part.adapter?.dA,
      dB: part.adapter?.dB,
      dWeight: part.dWeight,
      dBias: part.dBias,
    })) {
      if (tensor) outputs[`${name}${i}`] = await tensors.read(tensor);
    }
  }
  tensors.free();
  return outputs;
}

const weights: readonly WeightType[] = ["f32", "bf16", "nf4", "nf4-nested"];

/** Depths cross the engines' block sizes (256 to 1024); rows and columns end inside tiles. */
export const linearSpecs: Readonly<Record<string, LinearSpec>> = {
  ...Object.fromEntries(
    weights.flatMap((weight) =>
      [
        { t: 1, in: 7, out: 5 },
        { t: 1, in: 256, out: 65 },
        { t: 3, in: 33, out: 17 },
        { t: 8, in: 1090, out: 19 },
        { t: 9, in: 65, out: 33 },
        { t: 33, in: 64, out: 97 },
        { t: 40, in: 1301, out: 70 },
        { t: 70, in: 192, out: 300 },
      ].map(
        (s) =>
          [
            `${weight} ${s.t}x${s.in}x${s.out}`,
            { t: s.t, in: s.in, parts: [{ out: s.out, weight }] },
          ] as const,
      ),
    ),
  ),
  ...Object.fromEntries(
    (Object.keys(blockTypes) as BlockTypeName[]).flatMap((weight) => {
      const { block } = blockTypes[weight];
      // A depth is whole blocks, and engines cut it where a block of 256 does not end.
      return [
        { t: 1, in: block, out: 65 },
        { t: 5, in: block === 32 ? 1056 : 1280, out: 19 },
        { t: 40, in: block === 32 ? 1120 : 1536, out: 70 },
        { t: 70, in: block === 32 ? 96 : 256, out: 130 },
      ].map(
        ({ t, out, in: width }) =>
          [
            `${weight} ${t}x${width}x${out}`,
            { t, in: width, parts: [{ out, weight, rank: t === 40 ? 8 : undefined }] },
          ] as const,
      );
    }),
  ),
  "nf4 in blocks of 32": { t: 12, in: 50, parts: [{ out: 20, weight: "nf4", blockSize: 32 }] },
  "nf4 in blocks of 4096": { t: 12, in: 150, parts: [{ out: 60, weight: "nf4", blockSize: 4096 }] },
  "nf4 in blocks of 96": { t: 12, in: 75, parts: [{ out: 21, weight: "nf4-nested", blockSize: 96 }] },
  "bias and residual": { t: 35, in: 70, parts: [{ out: 64, weight: "bf16", bias: true, residual: "own" }] },
  "residual is y, two blocks": { t: 64, in: 1300, parts: [{ out: 64, weight: "bf16", residual: "y" }] },
  "adapter, one row": {
    t: 1,
    in: 70,
    parts: [{ out: 33, weight: "bf16", rank: 4, bias: true, residual: "y" }],
  },
  "adapter with dropout, five rows": {
    t: 5,
    in: 71,
    parts: [{ out: 33, weight: "nf4", rank: 3, dropout: 0.3 }],
  },
  "adapter of rank 1": { t: 21, in: 66, parts: [{ out: 33, weight: "f32", rank: 1 }] },
  "adapter of rank 64": { t: 50, in: 192, parts: [{ out: 130, weight: "bf16", rank: 64, residual: "y" }] },
  "adapter with dropout": {
    t: 40,
    in: 131,
    parts: [{ out: 70, weight: "bf16", rank: 8, dropout: 0.25, bias: true }],
  },
  "three parts, some adapted": {
    t: 45,
    in: 577,
    parts: [
      { out: 96, weight: "bf16", rank: 8 },
      { out: 33, weight: "nf4", rank: 5, bias: true },
      { out: 48, weight: "f32" },
    ],
  },
  "four parts, dropout differs": {
    t: 38,
    in: 90,
    parts: [
      { out: 64, weight: "bf16", rank: 8, dropout: 0.1 },
      { out: 32, weight: "bf16", rank: 8 },
      { out: 32, weight: "bf16", rank: 2, dropout: 0.5 },
      { out: 16, weight: "f32" },
    ],
  },
};
