// Launches that wait to be enqueued together, written as native/cuda/commands.h reads them: the arguments of a kernel lie as its
// struct in native/cuda/kernels/ has them (kernels.ts, read off that text). Runs of launches are cut at fixed counts, so
// that a step that comes again is cut the same way and can be replayed. Not here: what is launched when (the files of kernels).

import type { Tensor } from "../../tensor/tensor.ts";
import { BugError, UserError } from "../../util/errors.ts";
import { type CardHandle, type CudaAddon, driverCode } from "./addon.ts";
import { type Arguments, type CudaKernel, cudaKernels, layouts, type Pointer } from "./kernels.ts";

/** The arguments of kernel K. */
export type ArgumentsOf<K extends CudaKernel> = Arguments[(typeof cudaKernels)[K]["arguments"]];

/** Blocks in x, y, z. */
export type Grid = readonly [x: number, y?: number, z?: number];

const headWords = 6;
/** The card is given work after so few launches when it may be idle, and after so many otherwise. */
const [firstRun, longRun] = [64, 512];
const bufferWords = 1 << 17;

type FieldType = "pointer" | "u64" | "double" | "u32" | "i32" | "float";
interface Layout {
  readonly sizeBytes: number;
  readonly fields: readonly (readonly [name: string, type: FieldType, offset: number, count: number])[];
}

/** A kernel once it was loaded. */
interface Loaded {
  readonly index: number;
  readonly layout: Layout;
  /** Words of its record. */
  readonly words: number;
}

export class Commands {
  private readonly words = new Uint32Array(bufferWords);
  private readonly view = new DataView(this.words.buffer);
  private count = 0;
  private launches = 0;
  /** Runs of launches since somebody last waited for the card: their place in a step that comes again. */
  private place = 0;
  private limit = firstRun;
  private readonly loaded = new Map<CudaKernel, Loaded>();

  constructor(
    private readonly addon: CudaAddon,
    readonly card: CardHandle,
    /** PTX of a kernel of native/cuda/kernels/<file>.cu. */
    private readonly ptxOf: (file: string, kernel: string) => string,
  ) {}

  /** Enqueues a kernel over `grid` blocks; none at all is no launch. */
  launch<K extends CudaKernel>(kernel: K, grid: Grid, values: ArgumentsOf<K>): void {
    const known = this.loaded.get(kernel) ?? this.load(kernel);
    const at = this.begin(known, kernel, grid);
    if (at < 0) return;
    for (const [name, type, offset, count] of known.layout.fields) {
      const value = (values as Record<string, unknown>)[name];
      if (typeof value === "object" && value !== null && !("buffer" in value && "byteOffset" in value)) {
        const list = value as ArrayLike<Pointer>;
        if (list.length > count)
          throw new BugError(`${kernel}: ${list.length} values for ${name}, which has ${count}`);
        const step = type === "u32" || type === "i32" || type === "float" ? 4 : 8;
        for (let i = 0; i < list.length; i++) this.put(at + offset + step * i, type, list[i]);
      } else this.put(at + offset, type, value as Pointer);
    }
    this.finish(known);
  }

  /** The same with values in the order of the kernel's fields, for calls that are written from the contract (derived.ts). */
  launchList(kernel: CudaKernel, grid: Grid, slots: Float64Array, plan: Int32Array): void {
    const known = this.loaded.get(kernel) ?? this.load(kernel);
    const at = this.begin(known, kernel, grid);
    if (at < 0) return;
    const { fields } = known.layout;
    for (let i = 0, next = 0; i < fields.length; i++) {
      const [, type, offset, count] = fields[i]!;
      const step = type === "u32" || type === "i32" || type === "float" ? 4 : 8;
      for (let j = 0; j < count; j++) this.put(at + offset + step * j, type, slots[plan[next++]!]!);
    }
    this.finish(known);
  }

  /** Byte where the arguments go; -1 where there are no blocks. */
  private begin(known: Loaded, kernel: string, grid: Grid): number {
    const [x, y = 1, z = 1] = grid;
    if (x === 0 || y === 0 || z === 0) return -1;
    if (!(x > 0 && x < 2 ** 31 && y > 0 && y < 65536 && z > 0 && z < 65536))
      throw new BugError(`${kernel}: a grid of ${x} x ${y} x ${z} blocks`);
    if (this.count + known.words > bufferWords) this.submit();
    const { words, count } = this;
    words.fill(0, count, count + known.words);
    words[count] = known.words;
    words[count + 1] = known.index;
    words[count + 2] = x;
    words[count + 3] = y;
    words[count + 4] = z;
    return 4 * (count + headWords);
  }

  private put(at: number, type: FieldType, value: Pointer): void {
    if (typeof value === "object") {
      const { buffer, byteOffset } = value as Tensor;
      this.putWide(at, buffer.id + byteOffset);
      return;
    }
    const n = value ?? 0;
    if (type === "pointer" || type === "u64") this.putWide(at, n);
    else if (type === "float") this.view.setFloat32(at, n, true);
    else if (type === "double") this.view.setFloat64(at, n, true);
    else this.words[at >> 2] = n;
  }

  private putWide(at: number, value: number): void {
    this.words[at >> 2] = value >>> 0;
    this.words[(at >> 2) + 1] = Math.floor(value / 2 ** 32);
  }

  private finish({ words }: Loaded): void {
    this.count += words;
    if (++this.launches >= this.limit) {
      this.submit();
      this.limit = longRun;
    }
  }

  private load(kernel: CudaKernel): Loaded {
    if (!Object.hasOwn(cudaKernels, kernel))
      throw new BugError(`native/cuda/kernels has no kernel ${kernel}`);
    const { file, arguments: struct, threads, sharedBytes } = cudaKernels[kernel];
    const text = new TextEncoder().encode(this.ptxOf(file, kernel));
    const module = guarded(() => this.addon.loadModule(this.card, text));
    const layout: Layout = layouts[struct];
    const known = {
      index: guarded(() => this.addon.findFunction(this.card, module, kernel, threads, sharedBytes)),
      layout,
      words: 2 * Math.ceil((headWords + layout.sizeBytes / 4) / 2),
    };
    this.loaded.set(kernel, known);
    return known;
  }

  /** Enqueues what waits; the next launches may meet an idle card where `drained`. */
  submit(drained = false): void {
    const { count } = this;
    this.count = 0;
    this.launches = 0;
    const place = this.place++;
    if (drained) {
      this.limit = firstRun;
      this.place = 0;
    }
    if (count > 0) guarded(() => this.addon.submit(this.card, this.words, count, place));
  }

  /** Forgets what waits. */
  drop(): void {
    this.count = 0;
    this.launches = 0;
  }
}

/** Runs a call of the addon; what the driver says becomes a sentence. */
export function guarded<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw asUserError(error);
  }
}

/** CUDA_ERROR_OUT_OF_MEMORY, and codes of PTX that the driver does not know. */
const [outOfMemory, unsupported] = [2, [218, 222]];

export function asUserError(error: unknown): unknown {
  const code = driverCode(error);
  if (code === undefined) return error;
  const { message } = error as Error;
  if (code === 0) return new BugError(`cuda backend: ${message}`);
  if (code === outOfMemory)
    return new UserError(`this card is out of memory: ${message}; use smaller batches, or --backend cpu`);
  if (unsupported.includes(code))
    return new UserError(
      `this NVIDIA driver cannot compile lowrank's kernels: ${message}; update the driver`,
    );
  return new UserError(
    `the NVIDIA driver reports a failure: ${message}; LOWRANK_CUDA_SYNC=1 names the kernel, --backend webgpu or cpu does without`,
  );
}
