// The browser-safe core: the WebGPU backend bundles into one file, shaders inside, nothing of Node, no npm `webgpu`; and
// a headless Chromium that trains with the bundle gets the CPU's losses. LOWRANK_CHROMIUM names a browser elsewhere.

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { build, type Rolldown } from "vite";
import { describe, expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { baseStep, trainingSteps } from "../browser/training-steps.ts";
import { relativeDifference } from "../conformance/model-case.ts";
import { backendName } from "../e2e/lowrank.ts";

/** Chunks of an entry, the first the entry's own; modules of Node stay imports. */
async function bundle(entry: string): Promise<Rolldown.OutputChunk[]> {
  const built = await build({
    configFile: false,
    logLevel: "silent",
    build: {
      write: false,
      minify: false,
      target: "esnext",
      rolldownOptions: { external: [/^node:/] },
      lib: {
        entry: fileURLToPath(new URL(entry, import.meta.url)),
        formats: ["es"],
        fileName: (_, name) => `${name}.js`,
      },
    },
  });
  const outputs = (Array.isArray(built) ? built : [built]) as Rolldown.RolldownOutput[];
  const chunks = outputs.flatMap((o) => o.output).filter((file) => file.type === "chunk");
  return chunks.sort((a, b) => Number(b.isEntry) - Number(a.isEntry));
}

it("bundles for a browser without Node's modules", async () => {
  const chunks = await bundle("../../src/backend/webgpu.ts");
  expect(chunks).toHaveLength(1);
  expect(chunks[0]!.imports).toEqual([]);
  // Names in variables, read under Node only, are no imports to a bundler.
  expect(chunks[0]!.dynamicImports).toEqual([]);
  expect(chunks[0]!.code).not.toMatch(/(?:import\(|from\s*)["']|\brequire\(/);
  expect(chunks[0]!.code).toContain("@compute");
});

const browserPath = [
  process.env.LOWRANK_CHROMIUM,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path !== undefined && existsSync(path));
const tinyBase = fileURLToPath(new URL("../../models/tiny-base", import.meta.url));
const skip = browserPath ? "" : "no Chromium here: install one, or name it in LOWRANK_CHROMIUM";

describe.skipIf(skip)(`in headless Chromium${skip ? ` (skipped: ${skip})` : ""}`, () => {
  it("trains, in LoRA and QLoRA, with the losses of this machine's CPU", async (context) => {
    const chunks = await bundle("../browser/training-steps.ts");
    // What reads and writes files hangs on imports that nobody makes here.
    expect(chunks[0]!.imports.filter((name) => name.startsWith("node:"))).toEqual([]);
    const browser = await chromium.launch({
      executablePath: browserPath,
      args: [
        ...["--no-sandbox", "--enable-unsafe-webgpu", "--enable-features=Vulkan"],
        "--use-webgpu-adapter=swiftshader", // Chromium brings it, so that no GPU is needed
      ],
    });
    try {
      const page = await browser.newPage();
      // An address that never leaves this process; WebGPU wants a secure one.
      await page.route("**/*", (route) => {
        const file = ["config.json", "model.safetensors"].find((name) =>
          route.request().url().endsWith(name),
        );
        if (file) return route.fulfill({ body: readFileSync(`${tinyBase}/${file}`) });
        const chunk = chunks.find(({ fileName }) => route.request().url().endsWith(`/${fileName}`));
        return route.fulfill(
          chunk
            ? { contentType: "text/javascript", body: chunk.code }
            : { contentType: "text/html", body: "<!doctype html><title>lowrank</title>" },
        );
      });
      await page.goto("https://localhost/");
      const result = await page.evaluate(
        `import("/${chunks[0]!.fileName}").then((m) => m.trainHere("/config.json", "/model.safetensors"))`,
      );
      const trained = result as Awaited<ReturnType<typeof import("../browser/training-steps.ts").trainHere>>;
      if ("reason" in trained) {
        context.skip(`this Chromium has no WebGPU adapter (${trained.reason})`);
        return;
      }
      const backend = await openBackend(backendName, { precision: "fp32" });
      const base = {
        config: JSON.parse(readFileSync(`${tinyBase}/config.json`, "utf8")),
        weights: readFileSync(`${tinyBase}/model.safetensors`),
      };
      const expected = [
        await trainingSteps(backend, "lora"),
        await trainingSteps(backend, "qlora"),
        await baseStep(backend, base),
      ];
      backend.close();
      for (const [i, losses] of expected.entries()) {
        if (losses.length > 1) expect(losses.at(-1)).toBeLessThan(losses[0]!);
        expect(relativeDifference(trained.losses[i]!, losses)).toBeLessThan(1e-4);
      }
    } finally {
      await browser.close();
    }
  }, 300_000); // SwiftShader compiles every shader anew
});
