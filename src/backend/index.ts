// Registry of backends and the choice among them. Each is loaded only when asked for: the native addon and WebGPU
// are heavy, and may be missing. Adding one = one file exporting a BackendFactory + one line here.

import { UserError } from "../util/errors.ts";
import type { Backend, BackendFactory, BackendOptions } from "./backend.ts";

export const backends = {
  cpu: async () => (await import("./cpu.ts")).cpu,
  cuda: async () => (await import("./cuda.ts")).cuda,
  webgpu: async () => (await import("./webgpu.ts")).webgpu,
  reference: async () => (await import("./reference.ts")).reference,
} satisfies Record<string, () => Promise<BackendFactory>>;

export type BackendName = keyof typeof backends | "auto";

/** What "auto" stands for here: WebGPU where there is a GPU and it has the precision asked for, else the CPU. */
async function automatic({ precision }: BackendOptions): Promise<string> {
  if (precision === "bf16") return "cpu";
  return (await (await import("./webgpu.ts")).hasHardwareGpu()) ? "webgpu" : "cpu";
}

/** Under LOWRANK_TRACE=1 a backend that times its kernels (trace.ts). */
async function trace(backend: Backend): Promise<Backend> {
  if (globalThis.process?.env.LOWRANK_TRACE !== "1") return backend;
  const { traced } = await import("./trace.ts");
  const { writeTrace } = await import("./trace-output.node.ts");
  return traced(backend, writeTrace);
}

/** A backend that closes at the end of the block whose `using` holds it. */
export type OpenedBackend = Backend & Disposable;

/** Opens a backend by name. UserError says why it cannot run here. */
export async function openBackend(name: string, options: BackendOptions = {}): Promise<OpenedBackend> {
  const chosen = name === "auto" ? await automatic(options) : name;
  if (!Object.hasOwn(backends, chosen)) {
    throw new UserError(
      `backend "${name}" is not available; available are auto, ${Object.keys(backends).join(", ")}`,
    );
  }
  const factory = await backends[chosen as keyof typeof backends]();
  const backend = await factory.open(options);
  if (backend) {
    const opened = await trace(backend);
    return Object.assign(opened, { [Symbol.dispose]: () => opened.close() });
  }
  throw new UserError(`backend "${chosen}" cannot run here: ${factory.reason?.() ?? "no reason given"}`);
}
