// `npm run test:quick`: what runs in under a minute on two cores, for every edit. Left to `npm test`: whole commands,
// every backend and instruction set, WebGPU in software, packing and installing.

import { defineConfig } from "vitest/config";
import { base } from "./vitest.config.ts";

export default defineConfig({
  test: {
    ...base,
    include: ["test/**/*.test.ts"],
    exclude: [
      "**/node_modules/**",
      "test/{e2e,conformance,native,tools,examples}/**",
      "test/backend/webgpu*.test.ts",
      "test/backend/cuda/**",
      "test/library/package.test.ts",
      "test/optim/optimizers.test.ts",
      "test/publish/{gguf-metadata,quantize-folder}.test.ts",
      "test/generate/same-answers.test.ts",
      "test/data/preflight.test.ts",
      "test/cli/help.test.ts",
      "test/ui/{page,ui-runs,steer-runs}.test.ts",
      "test/models/adapter-files.test.ts",
    ],
  },
});
