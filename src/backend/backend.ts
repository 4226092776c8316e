// What every device offers: memory, plus one typed method per kernel, so that a forgotten kernel is a compile error in
// every backend. Kernels and their operands are in contract/, but for the products, which are here. Not here: who calls
// what when (autograd/), the definition of correct (reference.ts), the choice of a backend (index.ts).
//
// Conventions. Calls enqueue in order; only read() waits. Tensors are contiguous, row-major; activations,
// gradients, biases, norms' weights and optimizer state are f32 (f64 on the f64 reference); frozen matrices are
// f32, bf16 or quantised. T = tokens of a batch, all sequences laid end to end (padding never exists);
// C = model width, H = heads, G = key/value heads, D = head width, V = vocabulary, R = adapter rank.
// "+=" means the kernel adds to what the tensor holds, "=" that it overwrites.

import type { BlockTypeName } from "../quant/ggml/index.ts";
import type { DType } from "../tensor/dtype.ts";
import type { DeviceBuffer, Tensor } from "../tensor/tensor.ts";
import { BugError } from "../util/errors.ts";
import type { ContractKernels } from "./contract.ts";
import type { LedgerReport, MemoryCategory } from "./ledger.ts";

export type { DeviceBuffer, Tensor } from "../tensor/tensor.ts";
export { type ActivationKind, momentBlockSize, type Operands, type Segments } from "./contract.ts";
export type { LedgerReport, MemoryCategory } from "./ledger.ts";

/** Arithmetic of matrix products: fp32 throughout, or 16-bit inputs with f32 accumulation. */
export type Precision = "fp32" | "bf16" | "fp16";

/** A weight quantised through a codebook of 16 values: element i of block b is codebook[code_i] * scale_b. */
export interface QuantizedMatrix {
  readonly kind: "quantized";
  /** [out, in] of the matrix that the codes stand for. */
  readonly shape: readonly [number, number];
  /** u8 [ceil(out*in/2)]: row-major, even element in the high nibble. */
  readonly codes: Tensor;
  /** f32 [16]. */
  readonly codebook: Tensor;
  readonly blockSize: number;
  /** f32 [blocks], or, doubly quantised, u8 [blocks] with `nested`. */
  readonly absmax: Tensor;
  /** scale_b = codebook256[absmax_b] * absmax2[b / blockSize] + offset. */
  readonly nested?: {
    readonly codebook: Tensor; // f32 [256]
    readonly absmax: Tensor; // f32 [ceil(blocks / blockSize)]
    readonly blockSize: number;
    readonly offset: number;
  };
}

/** A weight in ggml's blocks (quant/ggml), as files have them: rows of whole blocks, one behind the other. */
export interface BlockMatrix {
  readonly kind: "blocks";
  readonly type: BlockTypeName;
  /** [out, in] of the matrix that the blocks stand for. */
  readonly shape: readonly [number, number];
  /** u8 [out * bytes of a row]. */
  readonly blocks: Tensor;
}

/** A matrix [out, in] that a linear kernel multiplies by; of blocks, on backends that hold them (`holdsBlocks`). */
export type Matrix = Tensor | QuantizedMatrix | BlockMatrix;

export function isQuantized(matrix: Matrix): matrix is QuantizedMatrix {
  return "kind" in matrix && matrix.kind === "quantized";
}

export function isBlocks(matrix: Matrix): matrix is BlockMatrix {
  return "kind" in matrix && matrix.kind === "blocks";
}

/** Of backends that hold no blocks, where loaders put none. */
export type PlainMatrix = Exclude<Matrix, BlockMatrix>;

/** Blocks for each of E experts: expert e's rows begin where e - 1's end. */
export interface BlockStack {
  readonly kind: "blockStack";
  readonly type: BlockTypeName;
  /** [E, out, in]. */
  readonly shape: readonly [number, number, number];
  readonly blocks: Tensor;
}

/** As many quantised matrices of one form, one behind the other: expert e's parts begin where e - 1's end. */
export interface QuantizedStack {
  readonly kind: "quantizedStack";
  /** [E, out, in]. */
  readonly shape: readonly [number, number, number];
  /** u8 [E * ceil(out*in/2)]. */
  readonly codes: Tensor;
  /** f32 [16], of all experts. */
  readonly codebook: Tensor;
  readonly blockSize: number;
  /** f32 [E * blocks], or, doubly quantised, u8 [E * blocks] with `nested`; blocks of one expert. */
  readonly absmax: Tensor;
  readonly nested?: {
    readonly codebook: Tensor; // f32 [256]
    readonly absmax: Tensor; // f32 [E * ceil(blocks / blockSize)]
    readonly blockSize: number;
    readonly offsets: Tensor; // f32 [E]
  };
}

/** A matrix [out, in] for each of E experts: dense [E, out, in], quantised, or in blocks. */
export type MatrixStack = Tensor | QuantizedStack | BlockStack;

export function isQuantizedStack(stack: MatrixStack): stack is QuantizedStack {
  return "kind" in stack && stack.kind === "quantizedStack";
}

export function isBlockStack(stack: MatrixStack): stack is BlockStack {
  return "kind" in stack && stack.kind === "blockStack";
}

/** As PlainMatrix. */
export type PlainStack = Exclude<MatrixStack, BlockStack>;

/** The rows that a mixture's experts work on: expert e has rows [offsets[e], offsets[e + 1]) of M. */
export interface GroupedRows {
  readonly offsets: Tensor; // [E + 1] i32
  /** [M] i32: row i of the input is x[index[i]]. Absent: x[i], and x is [M, in]. */
  readonly index?: Tensor;
  /** The pass is one of few tokens (RowsAlike): every expert's rows are computed as a few rows are. */
  readonly few: boolean;
}

/** Adapters of all experts over one stack: y += scale * x A_e^T B_e^T. */
export interface StackAdapter {
  readonly a: Tensor; // [E * R, in], rows (expert, rank)
  readonly b: Tensor; // [E, out, R]
  readonly scale: number;
  readonly u: Tensor; // [M, R]: written forward, read backward
}

export interface GroupedPart {
  readonly weight: MatrixStack;
  readonly bias?: Tensor; // [E, out]
  readonly adapter?: StackAdapter;
  readonly y: Tensor; // [M, out]
}

/** The backward pass of a GroupedPart. Absent outputs are not computed. */
export interface GroupedGradPart {
  readonly weight: MatrixStack;
  readonly dy: Tensor; // [M, out]
  readonly adapter?: StackAdapter & {
    readonly dA?: Tensor; // [E * R, in], +=
    readonly dB?: Tensor; // [E, out, R], +=
  };
  readonly dWeight?: Tensor; // [E, out, in], +=
  readonly dBias?: Tensor; // [E, out], +=
}

/** Dropout with a counter-based mask: element i of x is kept iff dropoutKeeps(p, seed, stream, i) (util/rng.ts), and scaled by 1/(1-p). */
export interface Dropout {
  readonly p: number;
  readonly seed: number;
  readonly stream: number;
}

/** A low-rank addition to a linear layer: y += scale * dropout(x) A^T B^T. */
export interface Adapter {
  readonly a: Tensor; // [R, in] f32
  readonly b: Tensor; // [out, R] f32
  readonly scale: number;
  readonly dropout?: Dropout;
  /** dropout(x) A^T, [T, R]; written by linear, read by linearBackward. */
  readonly u: Tensor;
}

/** One of the linear layers that share an input. */
export interface LinearPart {
  readonly weight: Matrix; // [out, in]
  readonly bias?: Tensor; // [out]
  readonly adapter?: Adapter;
  /** Added to the product when present: [T, out]; may be y itself. */
  readonly residual?: Tensor;
  readonly y: Tensor; // [T, out]
}

/** The backward pass of one LinearPart. Absent outputs are not computed. */
export interface LinearGradPart {
  readonly weight: Matrix;
  readonly dy: Tensor; // [T, out]
  readonly adapter?: Adapter & {
    readonly dA?: Tensor; // [R, in], +=
    readonly dB?: Tensor; // [out, R], +=
  };
  readonly dWeight?: Tensor; // [out, in] f32, +=
  readonly dBias?: Tensor; // [out], +=
}

type Plain<Part extends { readonly weight: Matrix | MatrixStack }> = Part & {
  readonly weight: PlainMatrix | PlainStack;
};
export type PlainLinearPart = Plain<LinearPart>;
export type PlainLinearGradPart = Plain<LinearGradPart>;
export type PlainGroupedPart = Plain<GroupedPart>;
export type PlainGroupedGradPart = Plain<GroupedGradPart>;

/** Parts of a backend that holds no blocks. */
export function plainParts<Part extends { readonly weight: Matrix | MatrixStack }>(
  parts: readonly Part[],
): readonly Plain<Part>[] {
  for (const { weight } of parts) {
    if ("kind" in weight && (weight.kind === "blocks" || weight.kind === "blockStack"))
      throw new BugError(`a weight in ${weight.type} blocks on a backend that reads none`);
  }
  return parts as readonly Plain<Part>[];
}

export interface Kernels extends ContractKernels {
  // Linear layers that share the input x [T, in]: y = x W^T + bias + residual + adapter.
  linear(x: Tensor, parts: readonly LinearPart[]): void;
  /**
   * dx (= or +=) sum over parts of dy W + dropout'(scale dy B A); and each part's dA, dB, dWeight, dBias.
   * x is needed only for dA and dWeight.
   */
  linearBackward(
    x: Tensor | undefined,
    parts: readonly LinearGradPart[],
    dx: Tensor | undefined,
    accumulate: boolean,
  ): void;
  /** The linear layers of a mixture's experts: y[i] = x_i W_e^T + bias_e + adapter of the expert e whose row i is. */
  groupedLinear(x: Tensor, rows: GroupedRows, part: GroupedPart): void;
  /** dx [M, in] = dy W_e + scale dy B_e A_e, by row of M even where x is by token; and dA, dB, dWeight, dBias. */
  groupedLinearBackward(
    x: Tensor | undefined,
    rows: GroupedRows,
    part: GroupedGradPart,
    dx: Tensor | undefined,
  ): void;
}

/**
 * Memory that a file stands behind, so that it need not be in the machine's memory. Kernels use it like any other; the
 * system brings back what they touch. These calls are advice, and do nothing to other buffers.
 */
export interface Paging {
  /** Bytes that can still be allocated, as far as the system tells. */
  availableBytes(): number;
  /**
   * Zeros, in a nameless file in `folder`. The first keptBytes never leave memory and are what the ledger counts.
   * UserError when the disk has no room, before anything is written.
   */
  allocate(sizeBytes: number, category: MemoryCategory, folder: string, keptBytes: number): DeviceBuffer;
  /** The tensor will be needed: begins to bring it in. */
  prefetch(tensor: Tensor): void;
  /** Begins to write what changed of the tensor. */
  writeBack(tensor: Tensor): void;
  /** Waits until the tensor is written, and gives its memory back. */
  evict(tensor: Tensor): void;
}

/**
 * When a row's bits do not depend on the rows beside it. In a call of at most `few` rows they do not; nor in calls of more
 * where `many` is true, though the bits are others there; where it is false they depend on the shape of the call. A prompt
 * enters in pieces of `piece` tokens, each of them a segment, as attention's bits depend on the shape of the segment.
 */
export interface RowsAlike {
  readonly few: number;
  readonly many: boolean;
  readonly piece: number;
}

/** Calls that were made once, to be made again over the same memory. */
export interface RecordedCalls {
  /** Makes them; false, and none is made, once memory that they use was freed. */
  replay(): boolean;
  /** Gives up what they need beside memory that others own. */
  free(): void;
}

/** A device: memory plus kernels. Calls enqueue in order; only read() waits. */
export interface Backend extends Kernels {
  readonly name: string;
  /** For people: instruction set and threads, or adapter and tier. */
  readonly description: string;
  readonly precision: Precision;
  /** dtype of activations, gradients, norms and trained parameters: f32; f64 only on the f64 reference. */
  readonly floatType: "f32" | "f64";
  /** True: the device works by itself, and stands idle while the host waits for a read before it goes on. */
  readonly runsAhead?: true;
  /** True: memory holds no values (counting.ts), so nobody needs to compute what would be written to it. */
  readonly holdsNothing?: true;
  /**
   * Types in which storeRows leaves keys and values and cachedAttention reads them: u8 is 8-bit rows. Absent: floatType
   * alone.
   */
  readonly cacheTypes?: readonly DType[];
  /** Its products read ggml's blocks. */
  readonly holdsBlocks?: true;
  /** Its fp32 products read matrices of bf16, widened on their way: the same numbers in half the room. */
  readonly widensBf16?: true;
  readonly rowsAlike: RowsAlike;
  readonly liveBytes: number;
  readonly peakBytes: number;
  /** Live and peak bytes by category. */
  ledger(): LedgerReport;
  /**
   * A device that tells of memory of its own: what it has for this backend in all, and the most that this backend has taken of
   * it so far, gaps between blocks and kernels' own included.
   */
  deviceMemory?(): { readonly availableBytes: number; readonly heldBytes: number };
  /** Fresh memory, contents undefined. Throws UserError when the device has none left. */
  allocate(sizeBytes: number, category: MemoryCategory): DeviceBuffer;
  write(buffer: DeviceBuffer, data: Uint8Array, offset?: number): void;
  /** A copy that nobody else holds. */
  read(buffer: DeviceBuffer, offset?: number, sizeBytes?: number): Promise<Uint8Array>;
  free(buffer: DeviceBuffer): void;
  /** Where a tensor lies in the host's memory, once all earlier calls have run. Absent: it lies elsewhere. */
  addressOf?(tensor: Tensor): number;
  /** Absent: this device has no memory that can be paged out. */
  readonly paging?: Paging;
  /** Multiply-add rate of this device in this precision, in GFLOP/s, measured now. Absent: not measurable. */
  peakGflops?(): Promise<number>;
  /**
   * Runs `body`, which does nothing but kernels' calls with memory that it allocates for them, and keeps the calls. Undefined
   * where they cannot be repeated. What `body` allocates and does not free is the caller's. Absent: calls are written anew.
   */
  record?(body: () => void): RecordedCalls | undefined;
  /** Of each row of x [N, V] (f32) the index of its largest element, the first of equals. Absent: rows are read for that. */
  largestOfRows?(x: Tensor): Promise<Int32Array>;
  /** Measures, where that is worth it and not done yet, how products by these frozen weights are made fastest here. */
  prepareProducts?(weights: readonly Matrix[]): Promise<void>;
  /** Runs what waits, where calls wait: for measuring. */
  settle?(): void;
  /** Releases the device; every buffer dies with it. */
  close(): void;
}

export interface BackendOptions {
  readonly precision?: Precision | "auto";
  /** CPU threads; 0 or absent: one per core. */
  readonly threads?: number;
  /** CPU instruction set; LOWRANK_ISA's, or the best of this machine, when absent. */
  readonly isa?: string;
}

/** What a file in this folder exports and index.ts registers. */
export interface BackendFactory {
  readonly name: string;
  /** Null when this machine cannot run it; `reason` then says why. */
  open(options: BackendOptions): Promise<Backend | null>;
  reason?(): string;
}
