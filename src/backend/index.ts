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

/** As options name them. */
export const backendNames = ["auto", ...(Object.keys(backends) as (keyof typeof backends)[])] as const;

/** What "auto" takes here, and a word on what it would rather have taken; empty when that is all there is to say. */
export interface AutomaticChoice {
  readonly name: keyof typeof backends;
  readonly word: string;
}

/**
 * CUDA where there is a card for it, WebGPU where there is another GPU (or the driver is not one for CUDA), else the CPU; of
 * these the first that has the precision asked for.
 */
export async function automatic({ precision }: BackendOptions = {}): Promise<AutomaticChoice> {
  // A browser has no drivers to ask.
  const cuda = globalThis.process?.versions?.node ? await import("./cuda.ts") : undefined;
  if (precision !== "fp16" && cuda?.hasCard()) return { name: "cuda", word: "" };
  const gpu = precision !== "bf16" && (await (await import("./webgpu.ts")).hasHardwareGpu());
  return { name: gpu ? "webgpu" : "cpu", word: cuda?.whyNoCard(gpu) ?? "" };
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
  const choice = name === "auto" ? await automatic(options) : { name, word: "" };
  const chosen = choice.name;
  if (!Object.hasOwn(backends, chosen)) {
    throw new UserError(
      `backend "${name}" is not available; available are auto, ${Object.keys(backends).join(", ")}`,
    );
  }
  const factory = await backends[chosen as keyof typeof backends]();
  const backend = await factory.open(options);
  if (backend) {
    if (choice.word !== "")
      Object.assign(backend, { description: `${backend.description} (${choice.word})` });
    const opened = await trace(backend);
    return Object.assign(opened, { [Symbol.dispose]: () => opened.close() });
  }
  throw new UserError(`backend "${chosen}" cannot run here: ${factory.reason?.() ?? "no reason given"}`);
}
