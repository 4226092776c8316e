// The CPU backend opens here: the native engine (native/) under an instruction set, a number of threads and a precision.
// Memory and kernels are in cpu/: device.ts first.

import { UserError } from "../util/errors.ts";
import type { Backend, BackendFactory, BackendOptions } from "./backend.ts";
import { loadNativeAddon, type NativeAddon } from "./cpu/addon.node.ts";
import { openCpuDevice } from "./cpu/device.ts";

/** What the engine can be compiled for (native/dispatch.cc), best first. */
const everyIsa = ["amx", "avx512bf16", "avx512", "avx2", "neon", "portable"];

/** Instruction sets that the CPU backend may take here, best first; LOWRANK_ISA's alone where it is set. */
export function cpuIsas(): readonly string[] {
  const asked = process.env.LOWRANK_ISA;
  return asked ? [asked] : loadNativeAddon().isas;
}

/** What the CPU backend takes and could take here: instruction sets, the best first, and whether LOWRANK_ISA holds it to one. */
export interface IsaDescription {
  readonly isa: string;
  readonly isas: readonly string[];
  readonly held: boolean;
}

/** UserError where LOWRANK_ISA names a set that this machine does not run. */
export function describeIsa(): IsaDescription {
  const addon = loadNativeAddon();
  return { isa: chooseIsa(addon, undefined), isas: addon.isas, held: Boolean(process.env.LOWRANK_ISA) };
}

/** The instruction set that is asked for, or the best of those. */
function chooseIsa(addon: NativeAddon, asked: string | undefined): string {
  const wanted = asked ?? cpuIsas()[0]!;
  if (addon.setIsa(wanted)) return wanted;
  const here = addon.isas.join(", ");
  throw new UserError(
    everyIsa.includes(wanted)
      ? `LOWRANK_ISA=${wanted}: this machine does not run that instruction set: its processor or system lacks it, or the compiler of the native engine did; it runs ${here}`
      : `LOWRANK_ISA=${wanted}: there is no such instruction set; expected one of ${everyIsa.join(", ")}, of which this machine runs ${here}`,
  );
}

export const cpu: BackendFactory = {
  name: "cpu",
  async open(options: BackendOptions): Promise<Backend> {
    const addon = loadNativeAddon();
    const isa = chooseIsa(addon, options.isa);
    const threads = addon.setThreads(options.threads ?? 0);
    const asked = options.precision ?? "auto";
    if (asked === "fp16") {
      throw new UserError(
        'precision "fp16" is not available on the CPU backend; use "bf16", "fp32" or "auto"',
      );
    }
    // bf16 products are no faster than fp32 without instructions for them, nor on Intel's cores without AMX, whose bf16
    // instruction has half the speed of f32's: "auto" stays with fp32 there.
    const precision = asked === "auto" ? (addon.bf16IsFaster() ? "bf16" : "fp32") : asked;
    const description = `${isa}, ${threads} ${threads === 1 ? "thread" : "threads"}, ${precision} products`;
    return openCpuDevice(addon, description, precision);
  },
};
