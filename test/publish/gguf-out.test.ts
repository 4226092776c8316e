// What leaves a base that is a GGUF file: under the name that its user gave it, never that of the folder in lowrank's cache
// which was made of it, and in 16 bits where nothing else is asked for.

import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { openFile } from "../../src/formats/disk.ts";
import { openGguf } from "../../src/formats/gguf.ts";
import { writeImatrix } from "../../src/formats/imatrix.ts";
import { exportGguf, merge, quantize } from "../../src/library/publish.ts";
import { exportGguf as writeGgufFile } from "../../src/publish/export-gguf.ts";
import { scratchFolder, writeRandomAdapter } from "./tiny-model.ts";

const root = scratchFolder();
const tiny = fileURLToPath(new URL("../../models/tiny-base", import.meta.url));
const base = join(root, "small.Q4_K_M.gguf");
const cache = process.env.LOWRANK_CACHE;
const backend = await openBackend("cpu").then(
  (opened) => {
    opened.close();
    return "cpu" as const;
  },
  () => "reference" as const,
);
let adapter: string;

beforeAll(async () => {
  process.env.LOWRANK_CACHE = join(root, "cache");
  const reference = await openBackend("reference");
  await writeGgufFile(reference, {
    model: tiny,
    out: base,
    type: "q4_k_m",
    adapterOnly: false,
    modelfile: false,
  });
  reference.close();
  adapter = await writeRandomAdapter(join(root, "adapter"), tiny, {}, 0.02);
});
afterAll(() => {
  if (cache === undefined) delete process.env.LOWRANK_CACHE;
  else process.env.LOWRANK_CACHE = cache;
});

const textOf = (path: string) => readFileSync(path, "utf8");

describe("of a GGUF file", () => {
  it("a merged folder is in bf16 and its report names the file", async () => {
    const out = join(root, "merged");
    const report = await merge({ model: base, adapter, out, backend });
    expect(report).toMatchObject({ model: base, dtype: "bf16", passed: true });
    expect(textOf(join(out, "merge-report.json"))).not.toContain(join(root, "cache"));
    expect(JSON.parse(textOf(join(out, "config.json"))).torch_dtype).toBe("bfloat16");
  });

  it("a GGUF file is in bf16, and named after the file", async () => {
    const warnings: string[] = [];
    const out = join(root, "again.gguf");
    const report = await exportGguf({
      model: base,
      adapter,
      out,
      backend,
      onWarning: (text) => warnings.push(text),
    });
    expect(report).toMatchObject({ type: "bf16", receipt: { passed: true } });
    expect(warnings.join()).toMatch(/stored quantised: its dequantised weights are exported/);
    const file = await openGguf(await openFile(out));
    expect(file.metadata.get("general.name")?.value).toBe("small.Q4_K_M");
    await file.close();
    expect(textOf(join(root, "again.receipt.json"))).not.toContain(join(root, "cache"));
  });

  it("an adapter's Modelfile begins from the file", async () => {
    const folder = join(root, "adapters");
    mkdirSync(folder);
    const out = join(folder, "lora.gguf");
    await exportGguf({ model: base, adapter, adapterOnly: true, out, backend });
    expect(textOf(join(folder, "lora.Modelfile"))).toMatch(
      /^FROM \.\.\/small\.Q4_K_M\.gguf\nADAPTER \.\/lora\.gguf\n/,
    );
    const beside = join(root, "lora.gguf");
    await exportGguf({ model: base, adapter, adapterOnly: true, out: beside, backend });
    expect(textOf(join(root, "lora.Modelfile"))).toMatch(/^FROM \.\/small\.Q4_K_M\.gguf\n/);
  });

  it("an importance matrix of another model is refused", async () => {
    const importance = join(root, "other.imatrix.gguf");
    const counts = Float64Array.of(1);
    await writeImatrix(
      importance,
      [{ name: "enc.blk.0.q.weight", sums: new Float32Array(192).fill(1), counts }],
      {
        ...{ datasets: [], chunks: 1, chunkSize: 512 },
      },
    );
    await expect(
      exportGguf({ model: base, out: join(root, "weighed.gguf"), type: "q4_k_m", importance, backend }),
    ).rejects.toThrow(/has numbers for enc\.blk\.0\.q\.weight, and none for this model's token_embd\.weight/);
  });

  it("a 4-bit folder's report names the file", async () => {
    const out = join(root, "four");
    await quantize({ model: base, out, backend });
    expect(JSON.parse(textOf(join(out, "quantize-report.json")))).toMatchObject({ model: base });
    expect(textOf(join(out, "quantize-report.json"))).not.toContain(join(root, "cache"));
  });
});
