// The contract every device implements: memory, plus one typed method per kernel, forward and backward, so
// that a forgotten kernel is a compile error in every backend. Not here: who calls what when (autograd/), the
// definition of correct (reference.ts), the choice of a backend (index.ts).
//
// Conventions. Calls enqueue in order; only read() waits. Tensors are contiguous, row-major; activations,
// gradients, biases, norms' weights and optimizer state are f32 (f64 on the f64 reference); frozen matrices are
// f32, bf16 or quantised. T = tokens of a batch, all sequences laid end to end (padding never exists);
// C = model width, H = heads, G = key/value heads, D = head width, V = vocabulary, R = adapter rank.
// "+=" means the kernel adds to what the tensor holds, "=" that it overwrites.

import type { NearestCodes } from "../quant/codebook.ts";
import type { DeviceBuffer, Tensor } from "../tensor/tensor.ts";
import type { LedgerReport, MemoryCategory } from "./ledger.ts";

export type { DeviceBuffer, Tensor } from "../tensor/tensor.ts";
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

/** A matrix [out, in] that a linear kernel multiplies by. */
export type Matrix = Tensor | QuantizedMatrix;

export function isQuantized(matrix: Matrix): matrix is QuantizedMatrix {
  return "kind" in matrix;
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

/**
 * Which tokens attend to which: row s of `table` is (qStart, qLength, kStart, kLength), i32. Query i of a segment
 * stands at position kLength - qLength + i and sees keys 0..position of its own segment, and of these only the last
 * `window` when window > 0. Segments never see each other.
 */
export interface Segments {
  readonly table: Tensor; // [count, 4] i32
  readonly count: number;
  readonly maxQueries: number;
  readonly maxKeys: number;
}

export type ActivationKind = "silu" | "gelu" | "geluTanh";

export interface Kernels {
  // Memory-like
  fill(y: Tensor, value: number): void;
  /** y = x, converting between f32, f64, bf16 and f16. Shapes agree. */
  cast(x: Tensor, y: Tensor): void;
  /** y += x. */
  addInPlace(x: Tensor, y: Tensor): void;
  /** y *= factor. */
  scaleInPlace(y: Tensor, factor: number): void;
  /** y = uniform in [-bound, bound): bits of (seed, stream, i) as (bits / 2^31 - 1) * bound; y f32, or of the precision's 16 bits. */
  fillUniform(y: Tensor, bound: number, seed: number, stream: number): void;
  /** y[i] = x[index[i]]: x [N, C], index i32 [M], y [M, C]. */
  gatherRows(x: Tensor, index: Tensor, y: Tensor): void;
  /** y[index[i]] = x[i]; rows not named are left alone. No index repeats. */
  scatterRows(x: Tensor, index: Tensor, y: Tensor): void;

  // Reductions; out is one element, "="
  sum(x: Tensor, out: Tensor): void;
  sumSquares(x: Tensor, out: Tensor): void;
  /** Number of NaN or infinite elements, as f32. x is f32, bf16 or f16. */
  countNonFinite(x: Tensor, out: Tensor): void;

  // Embedding: ids i32 [T], table [V, C] f32 or bf16, y [T, C]
  embedding(ids: Tensor, table: Tensor, y: Tensor): void;
  /** dTable[ids[t]] += dy[t]. */
  embeddingBackward(ids: Tensor, dy: Tensor, dTable: Tensor): void;

  // RMSNorm over the last dimension: y = x / sqrt(mean(x^2) + eps) * w. Zhang & Sennrich 2019.
  // x, y [N, C]; w [C] f32; rstd [N] is written for the backward pass.
  rmsNorm(x: Tensor, w: Tensor, eps: number, y: Tensor, rstd: Tensor): void;
  /** dx = or += (accumulate); dw += when given. */
  rmsNormBackward(
    x: Tensor,
    w: Tensor,
    rstd: Tensor,
    dy: Tensor,
    dx: Tensor | undefined,
    accumulate: boolean,
    dw?: Tensor,
  ): void;

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

  // Rotary position embedding in "rotate half" order: x [T, heads, D], table cos/sin [P, r/2] f32, positions i32 [T].
  // The first r <= D elements of each head turn, in pairs (i, i + r/2); the rest are copied. y may be x.
  // direction 1 forward, -1 backward.
  rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, direction: 1 | -1, y: Tensor): void;

  // Causal attention with grouped heads: q [Tq, H, D], k and v [Tk, G, D], out [Tq, H, D], lse [Tq, H].
  attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    scale: number,
    window: number,
    out: Tensor,
    lse: Tensor,
  ): void;
  /** dq, dk, dv "=". Only for self-attention segments (qLength = kLength, qStart = kStart). */
  attentionBackward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dOut: Tensor,
    segments: Segments,
    scale: number,
    window: number,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
  ): void;

  // Gated MLP activation: y = act(gate) * up, all [T, F]. Outputs may be the inputs' own memory.
  gatedActivation(kind: ActivationKind, gate: Tensor, up: Tensor, y: Tensor): void;
  gatedActivationBackward(
    kind: ActivationKind,
    gate: Tensor,
    up: Tensor,
    dy: Tensor,
    dGate: Tensor,
    dUp: Tensor,
  ): void;

  /**
   * loss[i] = -log softmax(logits[i])[targets[i]] ; targets i32 [N], all in range. When dLogits is given,
   * dLogits = (softmax - onehot) * gradScale; it may be logits itself.
   */
  crossEntropy(
    logits: Tensor,
    targets: Tensor,
    loss: Tensor,
    dLogits: Tensor | undefined,
    gradScale: number,
  ): void;

  /** One AdamW update of flat f32 state, as torch.optim.AdamW: decay, moments, bias-corrected step, eps outside the root. */
  adamw(update: AdamwUpdate): void;
  /** The same update on moments in 8 bits (optim/adamw-8bit-reference.ts): used in full, then rounded to the nearest codes. */
  adamw8bit(update: Adamw8bitUpdate): void;

  /**
   * Quantises x [n] (f32, bf16 or f16; finite) to 4 bits, bit for bit as quant/codebook.ts does: codes u8
   * [ceil(n / 2)], absmax f32 [ceil(n / blockSize)]. blockSize is even, at most 4096.
   */
  quantize4bit(x: Tensor, nearest: NearestCodes, blockSize: number, codes: Tensor, absmax: Tensor): void;
}

export interface AdamwUpdate {
  readonly params: Tensor;
  readonly grads: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** 1 for the first update. */
  readonly step: number;
  /** Gradients are multiplied by min(1, maxNorm / (sqrt(sumSquares[0]) + 1e-6)) as torch's clip_grad_norm_. */
  readonly clip?: { readonly sumSquares: Tensor; readonly maxNorm: number };
}

/** Elements that share one scale in 8-bit moments; a tensor's last block may be shorter. */
export const momentBlockSize = 256;

export interface Adamw8bitUpdate extends Omit<AdamwUpdate, "m" | "v"> {
  /** m = mMap[mCodes] * mAbsmax of its block; v likewise. */
  readonly mCodes: Tensor; // u8 [n]
  readonly vCodes: Tensor; // u8 [n]
  readonly mAbsmax: Tensor; // f32 [ceil(n / 256)]
  readonly vAbsmax: Tensor; // f32 [ceil(n / 256)]
  readonly mMap: Tensor; // f32 [256], ascending, with a 0
  readonly vMap: Tensor; // f32 [256], ascending, with a 0
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

/** A device: memory plus kernels. Calls enqueue in order; only read() waits. */
export interface Backend extends Kernels {
  readonly name: string;
  /** For people: instruction set and threads, or adapter and tier. */
  readonly description: string;
  readonly precision: Precision;
  /** dtype of activations, gradients, norms and trained parameters: f32; f64 only on the f64 reference. */
  readonly floatType: "f32" | "f64";
  /** True: memory holds no values (counting.ts), so nobody needs to compute what would be written to it. */
  readonly holdsNothing?: true;
  readonly liveBytes: number;
  readonly peakBytes: number;
  /** Live and peak bytes by category. */
  ledger(): LedgerReport;
  /** Fresh memory, contents undefined. Throws UserError when the device has none left. */
  allocate(sizeBytes: number, category: MemoryCategory): DeviceBuffer;
  write(buffer: DeviceBuffer, data: Uint8Array, offset?: number): void;
  read(buffer: DeviceBuffer, offset?: number, sizeBytes?: number): Promise<Uint8Array>;
  free(buffer: DeviceBuffer): void;
  /** Absent: this device has no memory that can be paged out. */
  readonly paging?: Paging;
  /** Multiply-add rate of this device in this precision, in GFLOP/s, measured now. Absent: not measurable. */
  peakGflops?(): Promise<number>;
  /** Releases the device; every buffer dies with it. */
  close(): void;
}

export interface BackendOptions {
  readonly precision?: Precision | "auto";
  /** CPU threads; 0 or absent: one per core. */
  readonly threads?: number;
}

/** What a file in this folder exports and index.ts registers. */
export interface BackendFactory {
  readonly name: string;
  /** Null when this machine cannot run it; `reason` then says why. */
  open(options: BackendOptions): Promise<Backend | null>;
  reason?(): string;
}
