import { defineConfig } from "vitest/config";
import { writeCudaKernels } from "./tools/embed-cuda.mjs";
import { writeShaders } from "./tools/embed-wgsl.mjs";

// A clean checkout has no shaders.ts and kernels.ts, and what they are made from may have changed since.
writeShaders();
writeCudaKernels();

/** For every test. Which files is each project's to say: lists are joined with those of what a project extends. */
export const base = {
  testTimeout: 120_000,
  hookTimeout: 120_000,
  // WebGPU checks what kernels do with memory; outside the tests it does not.
  env: { LOWRANK_WEBGPU_CHECKS: "1" },
  // Two workers at most: the native kernels use every core themselves.
  maxWorkers: 2,
};

export default defineConfig({
  test: {
    ...base,
    projects: [
      {
        extends: true,
        test: { name: "lowrank", include: ["test/**/*.test.ts"], exclude: ["test/backend/cuda/**"] },
      },
      {
        extends: true,
        // `npm run test:cuda`: the suites of backends over the CUDA backend on its emulator (native/cuda/emulator).
        test: {
          name: "cuda",
          include: [
            "test/conformance/{backend,model,qlora,shared-prefixes}.test.ts",
            "test/conformance/{embedding-noise,rows-alike}.test.ts",
            "test/backend/cuda/*.test.ts",
          ],
          globalSetup: "test/conformance/cuda-emulator.ts",
          env: { ...base.env, LOWRANK_TEST_CUDA: "1" },
        },
      },
    ],
  },
});
