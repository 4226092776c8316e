import { defineConfig } from "vitest/config";
import { writeShaders } from "./tools/embed-wgsl.mjs";

// A clean checkout has no shaders.ts, and a .wgsl file may have changed since.
writeShaders();

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Two workers at most: the native kernels use every core themselves.
    maxWorkers: 2,
  },
});
