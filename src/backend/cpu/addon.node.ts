// The native engine as JavaScript sees it: types of what native/addon.cc exports, and its loading, once a context.
// Not here: kernels' arguments (signature.ts). The addon is compiled by native/build.mjs, at `npm install`, or comes in a
// package of this platform (native/prebuilt.mjs).

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import {
  findPrebuilt,
  foreignPackages,
  ownVersion,
  packageOfThisMachine,
  quickProblem,
} from "../../../native/prebuilt.mjs";
import { UserError } from "../../util/errors.ts";
import type { CudaAddon } from "../cuda/addon.ts";

export interface NativeAddon {
  /** The kernels of the next call(): of each its id, the count of its arguments and these; addresses are numbers. */
  readonly args: Float64Array;
  /** Most arguments of one kernel. */
  readonly mostArguments: number;
  /** Kernels by id, and their C++ arguments; of those whose calls are written by hand only the name. */
  readonly kernels: readonly (readonly [name: string, text?: string])[];
  /** The structs (their fields) and enumerations ("enum F32, BF16") that these arguments name. */
  readonly types: readonly (readonly [name: string, text: string])[];
  /** Instruction sets that this machine runs, best first. */
  readonly isas: readonly string[];
  /** Runs the kernels in the first `length` numbers of args. ERR_OUT_OF_MEMORY: one found no memory, later ones did not run. */
  call(length: number): void;
  /** Address of fresh memory, aligned to 64 bytes; 0 when there is none left. */
  allocate(sizeBytes: number): number;
  free(address: number, sizeBytes: number): void;
  write(address: number, data: Uint8Array): void;
  read(address: number, into: Uint8Array): void;
  /** Of each of into.length rows of f32 the index of the largest element, the first of equals. */
  largest(address: number, columns: number, into: Int32Array): void;
  /** 0: one per core. Returns the count in use. */
  setThreads(count: number): number;
  /** False when this machine does not run it. */
  setIsa(name: string): boolean;
  /** Whether products in bf16 are faster than in f32 under the chosen instruction set on this processor. */
  bf16IsFaster(): boolean;
  /** GFLOP/s of products from registers, all threads; 0: f32, 1: bf16. Takes about 0.2 s. */
  peakGflops(precision: 0 | 1): number;
  /** GB/s of reading memory, all threads. */
  streamBandwidth(): number;
  /** Bytes kept beside the tensors: freed blocks for reuse, and the threads' working memory. */
  memory(): { readonly cachedBytes: number; readonly scratchBytes: number };
  /** Gives the blocks kept for reuse back to the system. */
  trim(): void;
  /** NVIDIA's driver. */
  readonly cuda: CudaAddon;
  /** Bytes that the process may still take, by the system, its control groups and its limits; huge where unknown. */
  available(): number;
  /** Address of zeros kept in a nameless file made at `path`, its space reserved; or minus an errno. */
  mapPaged(path: string, sizeBytes: number): number;
  unmapPaged(address: number): void;
  /** Begins to read a range of paged memory; begins to write what changed; writes, waits and gives the memory back. */
  prefetchPaged(address: number, sizeBytes: number): void;
  writePaged(address: number, sizeBytes: number): void;
  evictPaged(address: number, sizeBytes: number): void;
  /**
   * Opens the MPI library of this path or name, starts the thread that talks to it and waits for MPI_Init_thread. Once a
   * process: later calls tell what the first did. Throws with the reason.
   */
  mpiStart(path: string): {
    readonly rank: number;
    readonly size: number;
    readonly abi: string;
    readonly version: string;
  };
  /** Appends a job of native/mpi/thread.h, over memory by address; returns its id. */
  mpiPost(
    kind: number,
    own: number,
    all: number,
    count: number,
    ranks: number,
    first: number,
    deadlineSeconds: number,
  ): number;
  mpiWait(
    id: number,
    milliseconds: number,
  ): { readonly state: number; readonly silent: readonly number[]; readonly problem: string };
  /** Ends all ranks; returns after at most two seconds. Does nothing before MPI is started and after it was left. */
  mpiAbort(exitCode: number): void;
  /** Whether this process is in MPI. */
  mpiIsUp(): boolean;
  mpiTraffic(): { readonly bytesSent: number; readonly bytesReceived: number; readonly busySeconds: number };
  mpiCopy(to: number, from: number, sizeBytes: number): void;
}

const built = fileURLToPath(new URL("../../../native/build/lowrank.node", import.meta.url));
const howToCompile =
  process.platform === "win32"
    ? ""
    : "install a C++ compiler (Debian/Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; Alpine: apk add g++; macOS: xcode-select --install), then run `node native/build.mjs` in the lowrank folder";
let loaded: NativeAddon | undefined;

/** Where an addon lies: the one that LOWRANK_ADDON names, or the one compiled here before that of this platform's package. */
function locate(): string[] {
  const named = process.env.LOWRANK_ADDON;
  if (named) {
    if (!existsSync(named)) throw new UserError(`LOWRANK_ADDON: there is no file ${named}.`);
    return [named];
  }
  const wanted = packageOfThisMachine();
  const prebuilt = findPrebuilt(wanted);
  const problem = prebuilt ? quickProblem(prebuilt) : foreignPackages();
  const paths = existsSync(built) ? [built] : [];
  if (prebuilt && !problem) paths.push(prebuilt.path);
  if (paths.length > 0) return paths;
  const reason = problem ? ` (${problem})` : "";
  const fromPackage = wanted
    ? `install ${wanted} ${ownVersion()}, which holds it compiled (npm leaves it out with --omit=optional)`
    : "";
  const ways = [fromPackage, howToCompile].filter((way) => way !== "").join(", or ");
  throw new UserError(
    `the CPU backend is not built${reason}: ${ways || "Windows on this processor has none"}`,
  );
}

/**
 * Loads the addon. One that was compiled on another system, as in a folder that a container shares, does not load, and the
 * package's is taken. UserError when there is none or none can be loaded.
 */
export function loadNativeAddon(): NativeAddon {
  if (loaded) return loaded;
  const causes: string[] = [];
  for (const path of locate()) {
    try {
      loaded = createRequire(import.meta.url)(path) as NativeAddon;
      return loaded;
    } catch (error) {
      causes.push((error as Error).message.trim());
    }
  }
  const cause = `the CPU backend cannot be loaded (${causes.join("; ")})`;
  if (process.platform === "win32") throw new UserError(cause);
  throw new UserError(
    `${cause}; run \`LOWRANK_BUILD=source node native/build.mjs\` in the lowrank folder to compile it for this machine`,
  );
}
