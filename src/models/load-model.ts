// Loads a decoder's weights onto a device, tensor by tensor in bounded pieces: peak memory is the model plus one
// piece. Frozen matrices arrive in the backend's own precision, vectors in its float type; with `train` the
// weights arrive in one flat trainable buffer instead. Where weights come from (a folder, memory, a random
// generator) is behind WeightSource.

import type { GroupedSpec } from "../autograd/ops/experts.ts";
import type { LinearWeight } from "../autograd/ops/linear.ts";
import type { Parameter } from "../autograd/tape.ts";
import type { Backend, BlockStack, Matrix, QuantizedStack, Tensor } from "../backend/backend.ts";
import { FlatParameters, oneGroup } from "../nn/parameters.ts";
import { type DType, decodeToF32, dtypeBytes } from "../tensor/dtype.ts";
import { elementCount, viewOf } from "../tensor/tensor.ts";
import { BugError, UserError } from "../util/errors.ts";
import { Decoder } from "./decoder.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { storedName, type WeightSpec, weightSpecs } from "./decoder-weights.ts";
import { evenHostRows, type HostRows, readHostRows } from "./host-rows.ts";

/** A frozen weight on the device. */
export type Weight = Matrix | QuantizedStack | BlockStack;

/** Where weights come from. */
export interface WeightSource {
  /** Undefined when there is no such tensor. */
  find(name: string): { readonly dtype: DType; readonly shape: readonly number[] } | undefined;
  /** Bytes [offset, offset + length) of a tensor that find() knows. */
  read(name: string, offset: number, length: number): Promise<Uint8Array>;
  /** A matrix that is already on the device in quantised form, for checkpoints stored so. */
  quantized?(name: string, shape: readonly number[]): Promise<Weight | undefined>;
  /** Matrices beside those are dense for want of a form, and not on purpose: they may be quantised as they arrive. */
  readonly quantizesRest?: boolean;
  /** For messages. */
  readonly path: string;
}

/** Turns frozen weights into their quantised form; gets them on the device, in f32, bf16 or f16. */
export interface QuantizeOnArrival {
  (name: string, dense: Tensor): Promise<Matrix>;
  /** The weights [E, out, in] of experts: `fill` puts one of them, [out, in], into a tensor, and they come in turn. */
  stack(
    shape: readonly [number, number, number],
    dense: Tensor,
    fill: (expert: number) => Promise<void>,
  ): Promise<QuantizedStack>;
}

export interface LoadOptions {
  /** All weights train (full fine-tuning). */
  readonly train?: boolean;
  readonly quantize?: QuantizeOnArrival;
  /** What random weights pass for as having been stored in; f32 when absent. */
  readonly storedDType?: DType;
}

export interface LoadedDecoder {
  readonly decoder: Decoder;
  /** Set when `train`: every weight, flat. */
  readonly trained?: FlatParameters;
  readonly totalParameters: number;
  free(): void;
}

const pieceBytes = 32 * 2 ** 20;

/** Loads a decoder. Throws UserError for a missing, misshapen or non-finite tensor. */
export async function loadDecoder(
  backend: Backend,
  config: DecoderConfig,
  source: WeightSource,
  options: LoadOptions = {},
): Promise<LoadedDecoder> {
  const specs = weightSpecs(config);
  const onDevice = (spec: WeightSpec) => options.train || !spec.onHost;
  const largest = specs.filter(onDevice).reduce((most, spec) => Math.max(most, elementCount(spec.shape)), 0);
  const tied = tiedSource(source, config);
  const uploader = new Uploader(backend, tied, largest);
  // Before memory is taken for what a file only claims.
  if (options.train) for (const spec of specs) uploader.check(spec);
  const trained = options.train ? trainedWeights(backend, specs) : undefined;
  const frozen = new Map<string, Weight>();
  const onHost = new Map<string, HostRows>();
  const free = () => {
    for (const matrix of frozen.values()) freeMatrix(backend, matrix);
    trained?.free();
    uploader.free();
  };
  try {
    for (const spec of specs) {
      if (trained) await uploader.upload(spec, trained.get(spec.name)!.tensor);
      else if (spec.onHost) onHost.set(spec.name, await hostRowsOf(backend, tied, uploader, spec));
      else frozen.set(spec.name, await loadFrozen(backend, source, uploader, spec, options.quantize));
    }
  } catch (error) {
    free();
    throw error;
  }
  uploader.free();
  const constants = new Map<string, number>();
  for (const { name } of specs.filter(({ constant }) => constant))
    constants.set(
      name,
      await firstNumber(backend, trained?.get(name)?.tensor ?? (frozen.get(name) as Tensor)),
    );
  await prepareProducts(backend, specs, { frozen, trained });
  return loadedDecoder(backend, config, specs, { frozen, trained, onHost, constants });
}

/** Lets the device choose how it multiplies by these weights. */
export async function prepareProducts(
  backend: Backend,
  specs: readonly WeightSpec[],
  { frozen, trained }: PlacedWeights,
): Promise<void> {
  const linear = specs.filter(({ kind, onHost }) => kind === "linear" && !onHost);
  await backend.prepareProducts?.(
    linear.map(({ name }) => trained?.get(name)?.tensor ?? (frozen.get(name) as Matrix)),
  );
}

/** Flat, with what never trains in a group that does not move. */
export function trainedWeights(backend: Backend, specs: readonly WeightSpec[]): FlatParameters {
  const still = new Set(specs.filter(({ constant }) => constant).map(({ name }) => name));
  return new FlatParameters(backend, specs, "weights", true, ({ name }) =>
    still.has(name) ? { rate: 0, decays: false } : oneGroup,
  );
}

async function firstNumber(backend: Backend, { buffer, byteOffset, dtype }: Tensor): Promise<number> {
  if (backend.holdsNothing) return 0.5;
  return decodeToF32(await backend.read(buffer, byteOffset, dtypeBytes[dtype]), dtype)[0]!;
}

/** A table that stays in the host's memory. UserError where it is missing or has another shape. */
async function hostRowsOf(
  backend: Backend,
  source: WeightSource,
  uploader: Uploader,
  spec: WeightSpec,
): Promise<HostRows> {
  const { dtype } = uploader.check(spec);
  if (backend.holdsNothing) return evenHostRows(spec.shape[1]!, 0);
  const { name, shape } = spec;
  return readHostRows({ name, path: source.path, dtype, shape }, (offset, length) =>
    source.read(name, offset, length),
  );
}

interface PlacedWeights {
  readonly frozen: ReadonlyMap<string, Weight>;
  readonly trained?: FlatParameters;
  readonly onHost?: ReadonlyMap<string, HostRows>;
  /** Of weights that never train: the number that each is; 1 where none is said. */
  readonly constants?: ReadonlyMap<string, number>;
}

/** A decoder over weights that are on the device, and frees them. */
export function loadedDecoder(
  backend: Backend,
  config: DecoderConfig,
  specs: readonly WeightSpec[],
  { frozen, trained, onHost, constants }: PlacedWeights,
): LoadedDecoder {
  const decoder = new Decoder(backend, config, {
    ...weightsFrom(frozen, trained),
    constant: (name) => constants?.get(name) ?? 1,
    hostRows: (name) => onHost?.get(name),
  });
  return {
    decoder,
    trained,
    totalParameters: specs.reduce((sum, spec) => sum + elementCount(spec.shape), 0),
    free() {
      decoder.free();
      for (const matrix of frozen.values()) freeMatrix(backend, matrix);
      trained?.free();
    },
  };
}

/** A source that knows a tied table by the embedding's name. */
function tiedSource(source: WeightSource, config: DecoderConfig): WeightSource {
  const stored = (name: string) => storedName(config, name, (other) => source.find(other) !== undefined);
  return {
    path: source.path,
    find: (name) => source.find(stored(name)),
    read: (name, offset, length) => source.read(stored(name), offset, length),
  };
}

/** The loaded weights as the decoder asks for them. */
export function weightsFrom(frozen: ReadonlyMap<string, Weight>, trained: FlatParameters | undefined) {
  const parameter = (name: string): Parameter => {
    const found = trained?.get(name) ?? frozen.get(name);
    if (!found || "kind" in found) throw new BugError(`weight ${name} was not loaded as a dense tensor`);
    return "tensor" in found ? found : { name, tensor: found };
  };
  const linear = (name: string): LinearWeight => {
    const matrix = frozen.get(name);
    if (matrix && isStack(matrix)) throw new BugError(`weight ${name} was loaded as one of experts`);
    return matrix ? { frozen: matrix } : { parameter: parameter(name) };
  };
  const experts = (name: string): GroupedSpec["weight"] => {
    const stack = frozen.get(name);
    if (stack && "kind" in stack && !isStack(stack))
      throw new BugError(`weight ${name} was loaded as one of a linear layer`);
    return stack ? { frozen: stack } : { parameter: parameter(name) };
  };
  return { parameter, linear, experts };
}

async function loadFrozen(
  backend: Backend,
  source: WeightSource,
  uploader: Uploader,
  spec: WeightSpec,
  quantize: QuantizeOnArrival | undefined,
): Promise<Weight> {
  const adaptable = spec.kind === "linear" || spec.kind === "experts";
  if (adaptable || spec.kind === "head") {
    const placed = await source.quantized?.(spec.name, spec.shape);
    if (placed) return placed;
  }
  // What a quantised checkpoint left dense was left so on purpose.
  const open = source.quantized === undefined || source.quantizesRest === true;
  const quantized = adaptable && !spec.dense && quantize !== undefined && open;
  const stored = uploader.check(spec).dtype;
  const kept = spec.kind === "vector" ? backend.floatType : matrixDType(backend, stored);
  const dtype = quantized ? arrivalDType(source, spec.name) : kept;
  if (quantized && spec.kind === "experts") return loadStack(backend, uploader, spec, dtype, quantize);
  const tensor = viewOf(
    backend.allocate(elementCount(spec.shape) * dtypeBytes[dtype], quantized ? "workspace" : "weights"),
    spec.shape,
    dtype,
  );
  try {
    await uploader.upload(spec, tensor);
    if (!quantized) return tensor;
    const matrix = await quantize(spec.name, tensor);
    backend.free(tensor.buffer);
    return matrix;
  } catch (error) {
    backend.free(tensor.buffer);
    throw error;
  }
}

/** Quantises experts one by one as they arrive, so that only one is ever there whole. */
async function loadStack(
  backend: Backend,
  uploader: Uploader,
  spec: WeightSpec,
  dtype: DType,
  quantize: QuantizeOnArrival,
): Promise<Weight> {
  const shape = spec.shape as readonly [number, number, number];
  const [, out, width] = shape;
  const size = out * width;
  const dense = viewOf(backend.allocate(size * dtypeBytes[dtype], "workspace"), [out, width], dtype);
  try {
    return await quantize.stack(shape, dense, (expert) => uploader.upload(spec, dense, expert * size, size));
  } finally {
    backend.free(dense.buffer);
  }
}

const isStack = (weight: Weight): weight is QuantizedStack | BlockStack =>
  "kind" in weight && (weight.kind === "quantizedStack" || weight.kind === "blockStack");

/** What is quantised is the file's own numbers, so that the codes do not depend on the device's precision. */
function arrivalDType(source: WeightSource, name: string): DType {
  const stored = source.find(name)?.dtype;
  return stored === "bf16" || stored === "f16" ? stored : "f32";
}

/** How frozen matrices that are `stored` so are kept for the backend's arithmetic. */
export function matrixDType(backend: Backend, stored: DType): DType {
  if (backend.precision === "bf16") return "bf16";
  if (backend.precision === "fp16") return "f16";
  return stored === "bf16" && backend.widensBf16 ? "bf16" : backend.floatType;
}

/** Frees whatever a matrix holds on the device. */
export function freeMatrix(backend: Backend, matrix: Weight): void {
  if (!("kind" in matrix)) {
    backend.free(matrix.buffer);
    return;
  }
  if (matrix.kind === "blocks" || matrix.kind === "blockStack") {
    backend.free(matrix.blocks.buffer);
    return;
  }
  for (const tensor of [
    matrix.codes,
    matrix.codebook,
    matrix.absmax,
    matrix.nested?.codebook,
    matrix.nested?.absmax,
    matrix.kind === "quantizedStack" ? matrix.nested?.offsets : undefined,
  ]) {
    if (tensor) backend.free(tensor.buffer);
  }
}

/** Streams tensors from a source into device tensors, converting on the device where dtypes differ. */
class Uploader {
  private staging: Tensor["buffer"] | undefined;
  private count: Tensor | undefined;
  constructor(
    private readonly backend: Backend,
    private readonly source: WeightSource,
    /** Elements of the largest tensor to come. */
    private readonly largest: number,
  ) {}

  /** What the source has of a weight. UserError where it is missing or has another shape. */
  check(spec: WeightSpec): NonNullable<ReturnType<WeightSource["find"]>> {
    const { source } = this;
    const found = source.find(spec.name);
    if (!found) {
      throw new UserError(
        `${source.path}: tensor "${spec.name}" is missing; config.json asks for it with shape [${spec.shape}]`,
      );
    }
    if (found.shape.length !== spec.shape.length || found.shape.some((size, i) => size !== spec.shape[i])) {
      throw new UserError(
        `${source.path}: tensor "${spec.name}" has shape [${found.shape}], but config.json makes it [${spec.shape}]`,
      );
    }
    return found;
  }

  /** The weight, or `total` of its elements from `from` on. */
  async upload(spec: WeightSpec, target: Tensor, from = 0, total = elementCount(spec.shape)): Promise<void> {
    const { backend, source } = this;
    const found = this.check(spec);
    const sourceBytes = dtypeBytes[found.dtype];
    const pieceElements = Math.floor(pieceBytes / 4 / 64) * 64;
    for (let start = 0; start < total; start += pieceElements) {
      const count = Math.min(pieceElements, total - start);
      const bytes = await source.read(spec.name, (from + start) * sourceBytes, count * sourceBytes);
      const piece = {
        ...target,
        shape: [count],
        byteOffset: target.byteOffset + start * dtypeBytes[target.dtype],
      };
      if (found.dtype === target.dtype) {
        backend.write(target.buffer, bytes, piece.byteOffset);
      } else {
        this.staging ??= backend.allocate(Math.min(pieceBytes * 2, 8 * this.largest), "workspace");
        backend.write(this.staging, bytes);
        backend.cast({ x: viewOf(this.staging, [count], found.dtype), y: piece });
      }
      await this.refuseNonFinite(spec, piece);
    }
  }

  private async refuseNonFinite(spec: WeightSpec, piece: Tensor): Promise<void> {
    const { backend } = this;
    this.count ??= viewOf(backend.allocate(8, "workspace"), [1], backend.floatType);
    backend.countNonFinite({ x: piece, out: this.count });
    const bytes = await backend.read(this.count.buffer);
    const found =
      backend.floatType === "f32"
        ? new Float32Array(bytes.buffer, bytes.byteOffset, 1)[0]!
        : new Float64Array(bytes.buffer, bytes.byteOffset, 1)[0]!;
    if (found > 0) {
      throw new UserError(
        `${this.source.path}: tensor "${spec.name}" holds ${found} values that are NaN or infinite; the checkpoint is damaged or overflowed when it was converted`,
      );
    }
  }

  free(): void {
    if (this.staging) this.backend.free(this.staging);
    if (this.count) this.backend.free(this.count.buffer);
    this.staging = undefined;
    this.count = undefined;
  }
}
