// The CUDA driver as the addon offers it: types of what native/cuda/face.cc exports. Not here: loading the addon
// (../cpu/addon.node.ts), what is launched (commands.ts).

/** An opened card; opaque. */
export interface CardHandle {
  readonly card: unique symbol;
}

export interface CudaCard {
  readonly name: string;
  readonly memoryBytes: number;
  /** Compute capability. */
  readonly computeMajor: number;
  readonly computeMinor: number;
  readonly processors: number;
  /** Shared memory that one block may have. */
  readonly mostSharedBytes: number;
  /** Whether memory can be mapped piece by piece into a range of addresses. */
  readonly mapsMemory: boolean;
}

export interface CudaProbe {
  /** Empty, or "absent" (no driver), "symbol NAME" (an old driver), "init CODE" (the driver does not start). */
  readonly problem: string;
  /** 12040: CUDA 12.4. */
  readonly driverVersion: number;
  /** The library is the tests' emulator. */
  readonly emulated: boolean;
  readonly cards: readonly CudaCard[];
}

export interface CudaStatus {
  readonly freeBytes: number;
  readonly totalBytes: number;
  /** Kernels launched one by one, launched as part of a graph, and arguments changed in graphs. */
  readonly launched: number;
  readonly replayed: number;
  readonly changed: number;
  readonly graphs: number;
}

/** Failures are errors whose code is "CUDA_<the driver's number>", CUDA_0 for a misuse. */
export interface CudaAddon {
  /** `library` instead of the system's driver, the first time. */
  probe(library: string): CudaProbe;
  open(index: number): CardHandle;
  close(card: CardHandle): void;
  granularity(card: CardHandle): number;
  /** Address of a range without memory. */
  reserve(card: CardHandle, sizeBytes: number): number;
  /** Puts memory behind the range's next bytes, a multiple of the granularity; false: the card has none left. */
  grow(card: CardHandle, address: number, sizeBytes: number): boolean;
  /** PTX as text. */
  loadModule(card: CardHandle, text: Uint8Array): number;
  findFunction(card: CardHandle, module: number, name: string, threads: number, sharedBytes: number): number;
  /** Enqueues the launches in the first `length` words, the `place`-th run of them in a step (native/cuda/commands.h). */
  submit(card: CardHandle, words: Uint32Array, length: number, place: number): void;
  write(card: CardHandle, address: number, data: Uint8Array): void;
  read(card: CardHandle, address: number, sizeBytes: number): Promise<Uint8Array>;
  /** Waits for everything that was enqueued. */
  wait(card: CardHandle): void;
  status(card: CardHandle): CudaStatus;
}

/** The driver's number of an error that the addon threw; undefined for other errors. */
export function driverCode(error: unknown): number | undefined {
  const match = /^CUDA_(\d+)$/.exec((error as NodeJS.ErrnoException)?.code ?? "");
  return match ? Number(match[1]) : undefined;
}
