// The WebGPU backend bundles for a browser into one file: shaders inside, nothing of Node, no npm `webgpu`.

import { fileURLToPath } from "node:url";
import { build, type Rolldown } from "vite";
import { expect, it } from "vitest";

it("bundles for a browser without Node's modules", async () => {
  const built = await build({
    configFile: false,
    logLevel: "silent",
    build: {
      write: false,
      minify: false,
      target: "esnext",
      lib: {
        entry: fileURLToPath(new URL("../../src/backend/webgpu.ts", import.meta.url)),
        formats: ["es"],
        fileName: "webgpu",
      },
    },
  });
  const outputs = (Array.isArray(built) ? built : [built]) as Rolldown.RolldownOutput[];
  const chunks = outputs.flatMap((o) => o.output).filter((file) => file.type === "chunk");
  expect(chunks).toHaveLength(1);
  expect(chunks[0]!.imports).toEqual([]);
  // Names in variables, read under Node only, are no imports to a bundler.
  expect(chunks[0]!.dynamicImports).toEqual([]);
  expect(chunks[0]!.code).not.toMatch(/(?:import\(|from\s*)["']|\brequire\(/);
  expect(chunks[0]!.code).toContain("@compute");
});
