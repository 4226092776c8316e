// The CPU backend: memory and kernels of the native engine (native/). Calls wait in a queue (cpu-queue.ts) and run on the
// calling thread and the engine's pool, so a program that must stay responsive opens this backend in a worker
// (train/worker.ts).
// The order of arguments of each kernel is that of native/call.cc.

import type { NearestCodes } from "../quant/codebook.ts";
import { elementCount, type Tensor } from "../tensor/tensor.ts";
import { BugError, UserError } from "../util/errors.ts";
import type {
  ActivationKind,
  Adamw8bitUpdate,
  AdamwUpdate,
  Backend,
  BackendFactory,
  BackendOptions,
  DeviceBuffer,
  Kernels,
  LinearGradPart,
  LinearPart,
  Precision,
  Segments,
} from "./backend.ts";
import { momentBlockSize } from "./backend.ts";
import { CallArguments } from "./cpu-arguments.ts";
import { CpuPaging, outOfMemory } from "./cpu-paging.ts";
import { CpuQueue } from "./cpu-queue.ts";
import { Ledger, type LedgerReport, type MemoryCategory } from "./ledger.ts";
import { loadNativeAddon, type NativeAddon } from "./native-addon.ts";

/** As enum Activation in native/kernels.h. */
const activationCodes: Record<ActivationKind, number> = { silu: 0, gelu: 1, geluTanh: 2 };

const floats = ["f32", "f64", "bf16", "f16"] as const;

class CpuBackend implements Backend {
  readonly name = "cpu";
  readonly floatType = "f32";
  private readonly memory = new Ledger();
  private readonly live = new Map<number, { sizeBytes: number; category: MemoryCategory }>();
  private readonly arguments: CallArguments;
  private readonly queue: CpuQueue;
  readonly paging: CpuPaging;

  constructor(
    private readonly addon: NativeAddon,
    readonly description: string,
    readonly precision: Precision,
  ) {
    this.arguments = new CallArguments(
      addon.args,
      addon.mostArguments,
      (address) => this.live.has(address) || this.paging.owns(address),
    );
    this.queue = new CpuQueue(addon, this.arguments, () => this.memory.liveBytes);
    this.paging = new CpuPaging(addon, this.memory, () => this.queue.run());
  }

  get liveBytes(): number {
    return this.memory.liveBytes;
  }
  get peakBytes(): number {
    return this.memory.peakBytes;
  }
  ledger(): LedgerReport {
    return this.memory.report();
  }

  allocate(sizeBytes: number, category: MemoryCategory): DeviceBuffer {
    const id = this.queue.allocate(sizeBytes);
    if (id === 0) {
      throw new UserError(
        outOfMemory(sizeBytes, category, this.memory.liveBytes, this.paging.availableBytes()),
      );
    }
    this.live.set(id, { sizeBytes, category });
    this.memory.add(category, sizeBytes);
    return { id, sizeBytes };
  }

  free(buffer: DeviceBuffer): void {
    if (this.paging.free(buffer)) return;
    const entry = this.live.get(buffer.id);
    if (!entry) throw new BugError("cpu backend: a buffer was freed twice");
    this.live.delete(buffer.id);
    this.memory.remove(entry.category, entry.sizeBytes);
    this.queue.free(buffer.id, entry.sizeBytes);
  }

  private within(buffer: DeviceBuffer, offset: number, sizeBytes: number): number {
    if (!this.live.has(buffer.id) && !this.paging.owns(buffer.id))
      throw new BugError("cpu backend: the buffer was freed");
    if (offset < 0 || sizeBytes < 0 || offset + sizeBytes > buffer.sizeBytes) {
      throw new BugError(
        `cpu backend: bytes ${offset}..${offset + sizeBytes} of a buffer of ${buffer.sizeBytes}`,
      );
    }
    return buffer.id + offset;
  }

  write(buffer: DeviceBuffer, data: Uint8Array, offset = 0): void {
    this.queue.run();
    this.addon.write(this.within(buffer, offset, data.byteLength), data);
    this.paging.evict({ buffer, byteOffset: offset, shape: [data.byteLength], dtype: "u8" });
  }

  async read(buffer: DeviceBuffer, offset = 0, sizeBytes = buffer.sizeBytes - offset): Promise<Uint8Array> {
    this.queue.run();
    const into = new Uint8Array(sizeBytes);
    this.addon.read(this.within(buffer, offset, sizeBytes), into);
    this.paging.evict({ buffer, byteOffset: offset, shape: [sizeBytes], dtype: "u8" });
    return into;
  }

  async peakGflops(): Promise<number> {
    return this.addon.peakGflops(this.precision === "fp32" ? 0 : 1);
  }

  close(): void {
    this.queue.drop();
    for (const [address, { sizeBytes, category }] of this.live) {
      this.addon.free(address, sizeBytes);
      this.memory.remove(category, sizeBytes);
    }
    this.live.clear();
    this.paging.close();
    this.addon.trim();
  }

  private run(kernel: keyof Kernels): void {
    this.queue.add(this.addon.kernels[kernel]);
  }

  fill(y: Tensor, value: number): void {
    const n = elementCount(y.shape);
    this.arguments.start().f32(y, n).number(n).number(value);
    this.run("fill");
  }

  cast(x: Tensor, y: Tensor): void {
    const n = elementCount(x.shape);
    this.arguments.start().typed(x, floats, n).typed(y, floats, n).number(n);
    this.run("cast");
  }

  addInPlace(x: Tensor, y: Tensor): void {
    const n = elementCount(y.shape);
    this.arguments.start().f32(x, n).f32(y, n).number(n);
    this.run("addInPlace");
  }

  scaleInPlace(y: Tensor, factor: number): void {
    const n = elementCount(y.shape);
    this.arguments.start().f32(y, n).number(n).number(factor);
    this.run("scaleInPlace");
  }

  fillUniform(y: Tensor, bound: number, seed: number, stream: number): void {
    const n = elementCount(y.shape);
    this.arguments.start().typed(y, ["f32", "bf16"], n).number(n).number(bound).number(seed).number(stream);
    this.run("fillUniform");
  }

  gatherRows(x: Tensor, index: Tensor, y: Tensor): void {
    const m = elementCount(index.shape);
    const c = elementCount(x.shape.slice(1));
    this.arguments
      .start()
      .f32(x, elementCount(x.shape))
      .tensor(index, "i32", m)
      .f32(y, m * c)
      .number(m)
      .number(c);
    this.run("gatherRows");
  }

  scatterRows(x: Tensor, index: Tensor, y: Tensor): void {
    const m = elementCount(index.shape);
    const c = elementCount(x.shape.slice(1));
    this.arguments
      .start()
      .f32(x, m * c)
      .tensor(index, "i32", m)
      .f32(y, elementCount(y.shape))
      .number(m)
      .number(c);
    this.run("scatterRows");
  }

  sum(x: Tensor, out: Tensor): void {
    const n = elementCount(x.shape);
    this.arguments.start().f32(x, n).number(n).f32(out, 1);
    this.run("sum");
  }

  sumSquares(x: Tensor, out: Tensor): void {
    const n = elementCount(x.shape);
    this.arguments.start().f32(x, n).number(n).f32(out, 1);
    this.run("sumSquares");
  }

  countNonFinite(x: Tensor, out: Tensor): void {
    const n = elementCount(x.shape);
    this.arguments.start().typed(x, ["f32", "bf16", "f16"], n).number(n).f32(out, 1);
    this.run("countNonFinite");
  }

  embedding(ids: Tensor, table: Tensor, y: Tensor): void {
    const [v, c] = table.shape as [number, number];
    const t = elementCount(ids.shape);
    this.arguments
      .start()
      .tensor(ids, "i32", t)
      .typed(table, ["f32", "bf16"], v * c)
      .f32(y, t * c);
    this.arguments.number(t).number(c);
    this.run("embedding");
  }

  embeddingBackward(ids: Tensor, dy: Tensor, dTable: Tensor): void {
    const [v, c] = dTable.shape as [number, number];
    const t = elementCount(ids.shape);
    this.arguments
      .start()
      .tensor(ids, "i32", t)
      .f32(dy, t * c)
      .f32(dTable, v * c)
      .number(t)
      .number(c)
      .number(v);
    this.run("embeddingBackward");
  }

  rmsNorm(x: Tensor, w: Tensor, eps: number, y: Tensor, rstd: Tensor): void {
    const c = elementCount(w.shape);
    const n = elementCount(x.shape) / c;
    this.arguments
      .start()
      .f32(x, n * c)
      .f32(w, c)
      .number(eps)
      .f32(y, n * c)
      .f32(rstd, n)
      .number(n)
      .number(c);
    this.run("rmsNorm");
  }

  rmsNormBackward(
    x: Tensor,
    w: Tensor,
    rstd: Tensor,
    dy: Tensor,
    dx: Tensor | undefined,
    accumulate: boolean,
    dw?: Tensor,
  ): void {
    const c = elementCount(w.shape);
    const n = elementCount(x.shape) / c;
    this.arguments
      .start()
      .f32(x, n * c)
      .f32(w, c)
      .f32(rstd, n)
      .f32(dy, n * c)
      .optional(dx, n * c);
    this.arguments
      .number(accumulate ? 1 : 0)
      .optional(dw, c)
      .number(n)
      .number(c);
    this.run("rmsNormBackward");
  }

  private get precisionCode(): number {
    return this.precision === "bf16" ? 1 : 0;
  }

  linear(x: Tensor, parts: readonly LinearPart[]): void {
    const [t, width] = x.shape as [number, number];
    const to = this.arguments
      .start()
      .number(this.precisionCode)
      .f32(x, t * width);
    to.number(t).number(width).number(parts.length);
    for (const part of parts) {
      const [rows, columns] = part.weight.shape as [number, number];
      if (columns !== width) throw new BugError(`linear: weight [${rows}, ${columns}] on input [${x.shape}]`);
      to.matrix(part.weight).adapter(part.adapter, t, rows, columns);
      to.optional(part.bias, rows)
        .optional(part.residual, t * rows)
        .f32(part.y, t * rows);
    }
    this.run("linear");
  }

  linearBackward(
    x: Tensor | undefined,
    parts: readonly LinearGradPart[],
    dx: Tensor | undefined,
    accumulate: boolean,
  ): void {
    const first = parts[0];
    if (!first) return;
    const t = first.dy.shape[0]!;
    const width = first.weight.shape[1]!;
    const to = this.arguments
      .start()
      .number(this.precisionCode)
      .optional(x, t * width);
    to.number(t)
      .number(width)
      .number(parts.length)
      .optional(dx, t * width)
      .number(accumulate ? 1 : 0);
    for (const part of parts) {
      const [rows, columns] = part.weight.shape as [number, number];
      if (columns !== width)
        throw new BugError(`linearBackward: weights [${first.weight.shape}] and [${rows}, ${columns}]`);
      if (!x && (part.dWeight || part.adapter?.dA))
        throw new BugError("linearBackward: dA and dWeight need x");
      to.matrix(part.weight)
        .adapter(part.adapter, t, rows, columns)
        .f32(part.dy, t * rows);
      to.optional(part.dWeight, rows * columns).optional(part.dBias, rows);
    }
    this.run("linearBackward");
  }

  rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, direction: 1 | -1, y: Tensor): void {
    const [t, heads, headDim] = x.shape as [number, number, number];
    const size = t * heads * headDim;
    const table = elementCount(cos.shape);
    this.arguments.start().f32(x, size).tensor(positions, "i32", t).f32(cos, table).f32(sin, table);
    this.arguments.number(direction).f32(y, size).number(t).number(heads).number(headDim);
    this.arguments.number(cos.shape[1]!);
    this.run("rope");
  }

  private attentionArguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    scale: number,
    window: number,
    out: Tensor,
    lse: Tensor,
  ): CallArguments {
    const [tq, heads, headDim] = q.shape as [number, number, number];
    const kvHeads = k.shape[1]!;
    const keys = elementCount(k.shape);
    const to = this.arguments
      .start()
      .number(this.precisionCode)
      .f32(q, tq * heads * headDim)
      .f32(k, keys)
      .f32(v, keys);
    to.tensor(segments.table, "i32", segments.count * 4, true).number(segments.count);
    to.number(tq).number(heads).number(kvHeads).number(headDim).number(scale).number(window);
    return to.f32(out, tq * heads * headDim).f32(lse, tq * heads);
  }

  attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    scale: number,
    window: number,
    out: Tensor,
    lse: Tensor,
  ): void {
    this.attentionArguments(q, k, v, segments, scale, window, out, lse);
    this.run("attention");
  }

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
  ): void {
    const [queries, keys] = [elementCount(q.shape), elementCount(k.shape)];
    this.attentionArguments(q, k, v, segments, scale, window, out, lse);
    this.arguments.f32(dOut, queries).f32(dq, queries).f32(dk, keys).f32(dv, keys);
    this.run("attentionBackward");
  }

  gatedActivation(kind: ActivationKind, gate: Tensor, up: Tensor, y: Tensor): void {
    const n = elementCount(y.shape);
    this.arguments.start().number(activationCodes[kind]).f32(gate, n).f32(up, n).f32(y, n).number(n);
    this.run("gatedActivation");
  }

  gatedActivationBackward(
    kind: ActivationKind,
    gate: Tensor,
    up: Tensor,
    dy: Tensor,
    dGate: Tensor,
    dUp: Tensor,
  ): void {
    const n = elementCount(dy.shape);
    this.arguments.start().number(activationCodes[kind]).f32(gate, n).f32(up, n).f32(dy, n);
    this.arguments.f32(dGate, n).f32(dUp, n).number(n);
    this.run("gatedActivationBackward");
  }

  crossEntropy(
    logits: Tensor,
    targets: Tensor,
    loss: Tensor,
    dLogits: Tensor | undefined,
    gradScale: number,
  ): void {
    const [n, v] = logits.shape as [number, number];
    this.arguments
      .start()
      .f32(logits, n * v)
      .tensor(targets, "i32", n)
      .f32(loss, n)
      .optional(dLogits, n * v);
    this.arguments.number(gradScale).number(n).number(v);
    this.run("crossEntropy");
  }

  adamw(update: AdamwUpdate): void {
    const n = elementCount(update.params.shape);
    const to = this.arguments
      .start()
      .f32(update.params, n)
      .f32(update.grads, n)
      .f32(update.m, n)
      .f32(update.v, n);
    to.number(n).adamwConstants(update);
    this.run("adamw");
  }

  adamw8bit(update: Adamw8bitUpdate): void {
    const n = elementCount(update.params.shape);
    const blocks = Math.ceil(n / momentBlockSize);
    const to = this.arguments.start().f32(update.params, n).f32(update.grads, n);
    to.tensor(update.mCodes, "u8", n).tensor(update.vCodes, "u8", n);
    to.f32(update.mAbsmax, blocks).f32(update.vAbsmax, blocks);
    to.f32(update.mMap, 256).f32(update.vMap, 256);
    to.number(n).adamwConstants(update);
    this.run("adamw8bit");
  }

  quantize4bit(
    x: Tensor,
    { thresholds, codeByRank }: NearestCodes,
    blockSize: number,
    codes: Tensor,
    absmax: Tensor,
  ): void {
    const n = elementCount(x.shape);
    if (blockSize % 2 !== 0 || blockSize < 2 || blockSize > 4096) {
      throw new BugError(`quantize4bit: blocks of ${blockSize}`);
    }
    const to = this.arguments.start().typed(x, ["f32", "bf16", "f16"], n).number(n).number(blockSize);
    to.tensor(codes, "u8", Math.ceil(n / 2)).f32(absmax, Math.ceil(n / blockSize));
    for (let i = 0; i < 15; i++) to.number(thresholds[i]!);
    for (let i = 0; i < 16; i++) to.number(codeByRank[i]!);
    this.run("quantize4bit");
  }
}

/** The instruction set that LOWRANK_ISA asks for, or the best of this machine. */
function chooseIsa(addon: NativeAddon): string {
  const best = addon.isas[0]!;
  const wanted = process.env.LOWRANK_ISA || best;
  if (addon.setIsa(wanted)) return wanted;
  throw new UserError(
    `LOWRANK_ISA=${wanted}: this machine does not run that instruction set; it runs ${addon.isas.join(", ")}`,
  );
}

export const cpu: BackendFactory = {
  name: "cpu",
  async open(options: BackendOptions): Promise<Backend> {
    const addon = loadNativeAddon();
    const isa = chooseIsa(addon);
    const threads = addon.setThreads(options.threads ?? 0);
    const asked = options.precision ?? "auto";
    if (asked === "fp16") {
      throw new UserError(
        'precision "fp16" is not available on the CPU backend; use "bf16", "fp32" or "auto"',
      );
    }
    // Without bf16 instructions bf16 products are exact but no faster than fp32, so "auto" stays with fp32 there.
    const precision = asked === "auto" ? (addon.hasBf16() ? "bf16" : "fp32") : asked;
    const description = `${isa}, ${threads} ${threads === 1 ? "thread" : "threads"}, ${precision} products`;
    return new CpuBackend(addon, description, precision);
  },
};
