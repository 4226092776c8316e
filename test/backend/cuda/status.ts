// What the driver says of an opened CUDA backend, for tests.

import type { Backend } from "../../../src/backend/backend.ts";
import { loadNativeAddon } from "../../../src/backend/cpu/addon.node.ts";
import type { CudaStatus } from "../../../src/backend/cuda/addon.ts";
import type { Commands } from "../../../src/backend/cuda/commands.ts";

/** The commands of a backend that openCuda() gave. */
export function commandsOf(backend: Backend): Commands {
  return (backend as unknown as { commands: Commands }).commands;
}

export function statusOf(backend: Backend): CudaStatus {
  return loadNativeAddon().cuda.status(commandsOf(backend).card);
}
