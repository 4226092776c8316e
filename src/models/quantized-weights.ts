// Linear weights in 4 bits on a device: quantised there as they arrive, or taken as bitsandbytes stored them, never
// twice. One copy serves forward and backward; nothing is expanded to a full matrix. Codes are booked as weights, all
// that decodes them as scales. Not here: the arithmetic (quant/, the quantize4bit kernel), files (formats/bnb.ts).

import type { Backend, MemoryCategory, QuantizedMatrix, QuantizedStack, Tensor } from "../backend/backend.ts";
import { readBnbWeight, type StoredQuantized } from "../formats/bnb.ts";
import { parseQuantizationConfig } from "../formats/bnb-config.ts";
import { bnbMatrices, isBnbStack, joinedCodes } from "../formats/bnb-experts.ts";
import { fp4Values, type fromMxfp4, mxfp4Block, mxfp4Scale } from "../formats/expert-layout.ts";
import { readMxfp4 } from "../formats/expert-tensors.ts";
import type { ModelFolder } from "../formats/model-folder.ts";
import type { ExpertStack } from "../formats/model-tensors.ts";
import { checkBlockSize, type NearestCodes } from "../quant/codebook.ts";
import { type NestedScales, nestedBlockSize, quantizeScales } from "../quant/double-quant.ts";
import { signedDynamicMap } from "../quant/dynamic-map.ts";
import { type QuantizerName, quantizers } from "../quant/index.ts";
import { decodeToF32, encodeFrom } from "../tensor/dtype.ts";
import { elementCount, viewOf } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import type { QuantizeOnArrival, WeightSource } from "./load-model.ts";

export interface QuantizeOptions {
  /** Quantise the scales too; true when absent, as in the paper. */
  readonly doubleQuant?: boolean;
  /** Weights that share a scale; 64 when absent, as in the paper. */
  readonly blockSize?: number;
}

/** The loader's hook that turns each linear weight into 4 bits. */
export function quantizeOnArrival(
  backend: Backend,
  name: QuantizerName = "nf4",
  options: QuantizeOptions = {},
): QuantizeOnArrival {
  const { doubleQuant = true, blockSize = 64 } = options;
  checkBlockSize(blockSize);
  const quantizer = quantizers[name];
  const matrix = async (_: string, dense: Tensor) => {
    const codes = bytesTensor(backend, Math.ceil(elementCount(dense.shape) / 2), "weights");
    try {
      const absmax = await quantizeInto(backend, dense, quantizer, blockSize, codes);
      const shape = dense.shape as readonly [number, number];
      const { codebook } = quantizer;
      if (!doubleQuant) return place(backend, { shape, blockSize, codebook, absmax }, codes);
      const nested = backend.holdsNothing ? zeroScales(absmax.length) : quantizeScales(absmax);
      return place(
        backend,
        {
          ...{ shape, blockSize, codebook, absmax: nested.codes },
          nested: {
            ...{ codebook: signedDynamicMap, absmax: nested.absmax },
            ...{ blockSize: nestedBlockSize, offset: nested.offset },
          },
        },
        codes,
      );
    } catch (error) {
      backend.free(codes.buffer);
      throw error;
    }
  };
  const stack: QuantizeOnArrival["stack"] = async (shape, dense, fill) => {
    const [experts, out, width] = shape;
    const bytes = Math.ceil((out * width) / 2);
    const codes = bytesTensor(backend, experts * bytes, "weights");
    try {
      const scales = new StackScales(experts, Math.ceil((out * width) / blockSize), doubleQuant);
      for (let expert = 0; expert < experts; expert++) {
        // Where nothing is held, one expert is as good as all.
        if (backend.holdsNothing && expert > 0) break;
        await fill(expert);
        const own = { ...codes, shape: [bytes], byteOffset: expert * bytes };
        scales.put(expert, await quantizeInto(backend, dense, quantizer, blockSize, own));
      }
      const nested = {
        ...{ codebook: signedDynamicMap, absmax: scales.outer },
        ...{ blockSize: nestedBlockSize, offsets: scales.offsets },
      };
      const { codebook } = quantizer;
      return placeStack(backend, shape, blockSize, codes, {
        ...{ codebook, absmax: scales.absmax },
        nested: doubleQuant ? nested : undefined,
      });
    } catch (error) {
      backend.free(codes.buffer);
      throw error;
    }
  };
  return Object.assign(matrix, { stack });
}

/** A stack's host parts as experts come in turn; every expert's scales are quantised by themselves. */
class StackScales {
  readonly absmax: Float32Array | Uint8Array;
  readonly outer: Float32Array;
  readonly offsets: Float32Array;
  constructor(
    experts: number,
    readonly blocks: number,
    private readonly doubleQuant: boolean,
  ) {
    const outer = Math.ceil(blocks / nestedBlockSize);
    this.absmax = doubleQuant ? new Uint8Array(experts * blocks) : new Float32Array(experts * blocks);
    this.outer = new Float32Array(doubleQuant ? experts * outer : 0);
    this.offsets = new Float32Array(doubleQuant ? experts : 0);
  }

  put(expert: number, absmax: Float32Array): void {
    if (!this.doubleQuant) {
      this.absmax.set(absmax, expert * this.blocks);
      return;
    }
    const nested = quantizeScales(absmax);
    this.absmax.set(nested.codes, expert * this.blocks);
    this.outer.set(nested.absmax, expert * nested.absmax.length);
    this.offsets[expert] = nested.offset;
  }
}

/** Puts everything of a stack but its codes, which are there, on the device. */
export function placeStack(
  backend: Backend,
  shape: readonly [number, number, number],
  blockSize: number,
  codes: Tensor,
  {
    codebook,
    absmax,
    nested,
  }: {
    readonly codebook: Float32Array;
    readonly absmax: Float32Array | Uint8Array;
    readonly nested?: {
      readonly codebook: Float32Array;
      readonly absmax: Float32Array;
      readonly blockSize: number;
      readonly offsets: Float32Array;
    };
  },
): QuantizedStack {
  return placing(backend, (put) => ({
    ...{ kind: "quantizedStack" as const, shape, codes, blockSize },
    ...{ codebook: put(codebook), absmax: put(absmax) },
    nested: nested && {
      ...{ codebook: put(nested.codebook), absmax: put(nested.absmax) },
      ...{ blockSize: nested.blockSize, offsets: put(nested.offsets) },
    },
  }));
}

/** Doubly quantised scales of their true sizes, for a backend that only counts. */
function zeroScales(blocks: number): NestedScales {
  const absmax = new Float32Array(Math.ceil(blocks / nestedBlockSize));
  return { codes: new Uint8Array(blocks), absmax, offset: 0 };
}

/** Fills `codes` from a dense weight on the device and brings the scales back. */
export async function quantizeInto(
  backend: Backend,
  dense: Tensor,
  nearest: NearestCodes,
  blockSize: number,
  codes: Tensor,
): Promise<Float32Array> {
  const blocks = Math.ceil(elementCount(dense.shape) / blockSize);
  const absmax = viewOf(backend.allocate(4 * blocks, "workspace"), [blocks], "f32");
  try {
    backend.quantize4bit({
      x: dense,
      thresholds: nearest.thresholds,
      codeByRank: nearest.codeByRank,
      blockSize,
      codes,
      absmax,
    });
    if (backend.holdsNothing) return new Float32Array(blocks);
    return decodeToF32(await backend.read(absmax.buffer, 0, 4 * blocks), "f32");
  } finally {
    backend.free(absmax.buffer);
  }
}

/**
 * Reads 4-bit weights of a folder onto a device as they are; undefined where the folder is a plain one. UserError for
 * a quantisation that we cannot read, and for a weight whose own shape is not the configuration's.
 */
export function storedIn4Bits(backend: Backend, folder: ModelFolder): WeightSource["quantized"] {
  const stored = parseQuantizationConfig(folder.config, `${folder.path}/config.json`);
  const stacks = folder.stacks ?? new Map<string, ExpertStack>();
  const mxfp4 = [...stacks.values()].some(({ form }) => form === "mxfp4");
  if (!stored && !mxfp4) return undefined;
  return async (name, shape) => {
    const stack = stacks.get(name);
    if (stack?.form === "mxfp4") return mxfp4Stack(backend, folder.path, stack, shape);
    if (stack) return isBnbStack(stack) ? bnbStack(backend, folder.path, name, stack, shape) : undefined;
    if (!stored) return undefined;
    const weight = await readBnbWeight(folder, name);
    if (!weight) return undefined;
    if (weight.shape.length !== shape.length || weight.shape.some((size, i) => size !== shape[i])) {
      throw new UserError(
        `${folder.path}: 4-bit tensor "${name}" says in its quant_state that its shape is [${weight.shape}], but config.json makes it [${shape}]`,
      );
    }
    return upload(backend, weight);
  };
}

/** gpt-oss' experts as their file has them: 16 values of FP4, blocks of 32, scales of powers of two. */
async function mxfp4Stack(
  backend: Backend,
  path: string,
  stack: ExpertStack,
  shape: readonly number[],
): Promise<QuantizedStack> {
  if (stack.shape.join() !== shape.join())
    throw new UserError(
      `${path}: tensor "${stack.parts[0]![0]}" is of experts [${stack.shape}], but config.json makes them [${shape}]`,
    );
  return placeMxfp4(backend, stack.shape, async (expert) => {
    const own = await readMxfp4(stack, expert);
    if (own.scales.includes(255))
      throw new UserError(`${path}: tensor "${stack.parts[0]![1]}" holds scales that are not numbers`);
    return own;
  });
}

/** A stack in MXFP4 of experts that come in turn; none come to a backend that only counts. */
export async function placeMxfp4(
  backend: Backend,
  shape: readonly [number, number, number],
  expertOf: (expert: number) => Promise<ReturnType<typeof fromMxfp4>>,
): Promise<QuantizedStack> {
  const [experts, out, width] = shape;
  const [bytes, blocks] = [(out * width) / 2, (out * width) / mxfp4Block];
  const codes = bytesTensor(backend, experts * bytes, "weights");
  try {
    const absmax = new Uint8Array(experts * blocks);
    for (let expert = 0; expert < experts && !backend.holdsNothing; expert++) {
      const own = await expertOf(expert);
      backend.write(codes.buffer, own.codes, expert * bytes);
      absmax.set(own.scales, expert * blocks);
    }
    return placeStack(backend, shape, mxfp4Block, codes, {
      ...{ codebook: fp4Values, absmax },
      nested: {
        // What no file holds (255) is kept finite.
        codebook: Float32Array.from({ length: 256 }, (_, code) => mxfp4Scale(Math.min(code, 254))),
        absmax: new Float32Array(experts).fill(1),
        blockSize: blocks,
        offsets: new Float32Array(experts),
      },
    });
  } catch (error) {
    backend.free(codes.buffer);
    throw error;
  }
}

/** Experts that bitsandbytes quantised one by one. */
async function bnbStack(
  backend: Backend,
  path: string,
  name: string,
  stack: ExpertStack,
  shape: readonly number[],
): Promise<QuantizedStack> {
  const [experts, out, width] = shape as readonly [number, number, number];
  const bytes = Math.ceil((out * width) / 2);
  const codes = bytesTensor(backend, experts * bytes, "weights");
  try {
    let first: StoredQuantized | undefined;
    let absmax = new Float32Array(0);
    for (let expert = 0; expert < experts; expert++) {
      const weights = await bnbMatrices(path, stack, expert, shape);
      const own = joinedCodes(weights);
      first ??= weights[0]!;
      const alike = weights.every(
        ({ blockSize, quantType }) => blockSize === first!.blockSize && quantType === first!.quantType,
      );
      if (!own || !alike)
        throw new UserError(
          `${path}: 4-bit experts of "${name}" are in blocks that do not end with their matrices, or differ in their form; quantise the original with lowrank quantize`,
        );
      if (expert === 0) absmax = new Float32Array(experts * own.absmax.length);
      backend.write(codes.buffer, own.codes, expert * bytes);
      absmax.set(own.absmax, expert * own.absmax.length);
    }
    const { blockSize, codebook } = first!;
    return placeStack(backend, [experts, out, width], blockSize, codes, { codebook, absmax });
  } catch (error) {
    backend.free(codes.buffer);
    throw error;
  }
}

function upload(backend: Backend, weight: StoredQuantized): QuantizedMatrix {
  const codes = bytesTensor(backend, weight.codes.length, "weights");
  try {
    backend.write(codes.buffer, weight.codes);
    return place(backend, weight, codes);
  } catch (error) {
    backend.free(codes.buffer);
    throw error;
  }
}

/** Puts everything but the codes, which are there, on the device. */
function place(
  backend: Backend,
  weight: Pick<StoredQuantized, "shape" | "blockSize" | "codebook" | "absmax" | "nested">,
  codes: Tensor,
): QuantizedMatrix {
  return placing(backend, (put) => {
    const { shape, blockSize, nested } = weight;
    const matrix = {
      ...{ kind: "quantized" as const, shape, codes, blockSize },
      codebook: put(weight.codebook),
      absmax: put(weight.absmax),
    };
    if (!nested) return matrix;
    const inner = { codebook: put(nested.codebook), absmax: put(nested.absmax) };
    return { ...matrix, nested: { ...inner, blockSize: nested.blockSize, offset: nested.offset } };
  });
}

/** What `make` makes of values that it puts on the device; frees them when it fails. */
function placing<T>(backend: Backend, make: (put: (values: Float32Array | Uint8Array) => Tensor) => T): T {
  const made: Tensor[] = [];
  const put = (values: Float32Array | Uint8Array): Tensor => {
    const isBytes = values instanceof Uint8Array;
    const bytes = isBytes ? values : encodeFrom(values, "f32");
    const buffer = backend.allocate(bytes.byteLength, "scales");
    const tensor = viewOf(buffer, [values.length], isBytes ? "u8" : "f32");
    made.push(tensor);
    backend.write(buffer, bytes);
    return tensor;
  };
  try {
    return make(put);
  } catch (error) {
    for (const tensor of made) backend.free(tensor.buffer);
    throw error;
  }
}

function bytesTensor(backend: Backend, count: number, category: MemoryCategory): Tensor {
  return viewOf(backend.allocate(count, category), [count], "u8");
}
