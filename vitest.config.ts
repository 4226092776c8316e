import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";
import { writeCudaKernels } from "./tools/embed-cuda.mjs";
import { writeShaders } from "./tools/embed-wgsl.mjs";

// A clean checkout has no shaders.ts and kernels.ts, and what they are made from may have changed since.
writeShaders();
writeCudaKernels();

/** Files of minutes, the longest first. Vitest begins with the largest files, so that a short file of many cases came last. */
const longest = [
  "conformance/backend",
  "e2e/ranks",
  "backend/webgpu-shaders",
  "models/mixtures",
  "conformance/generate",
  "emulator/emulated-conformance",
  "conformance/model",
  "e2e/durable",
  "e2e/cross-backend",
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const placeOf = ({ moduleId }: TestSpecification) => {
      const place = longest.findIndex((name) => moduleId.endsWith(`test/${name}.test.ts`));
      return place < 0 ? longest.length : place;
    };
    return (await super.sort(files)).sort((a, b) => placeOf(a) - placeOf(b));
  }
}

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
    sequence: { sequencer: LongestFirst },
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
