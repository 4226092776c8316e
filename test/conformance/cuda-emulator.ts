// Builds the CUDA emulator before the tests of the project "cuda" begin (vitest.config.ts); they find it at emulatorPath.

import { buildEmulator, emulatorPath } from "../../native/cuda/emulator/build.mjs";

export { emulatorPath };

export default async function setup(): Promise<void> {
  if (process.env.LOWRANK_CUDA_LIBRARY) return;
  if (!(await buildEmulator())) throw new Error("the CUDA emulator does not build; see above");
}
