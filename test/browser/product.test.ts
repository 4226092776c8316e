// lowrank/browser in headless Chromium, quickly, on a model of two small layers: fetched over a cut connection, trained on
// WebGPU over a closed tab to the CPU's adapter, and without a GPU to the same bits whether the tab was closed or not.
// The whole demo with the tiny base: demo.test.ts.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { BrowserContext, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { lowrank, makeRows, scratchFolder, succeed, writeRows, writeTinyModel } from "../e2e/lowrank.ts";
import { adapterDifference } from "./adapter-difference.ts";
import { type Served, type Visit, visit, withoutChromium } from "./chromium.ts";

const scratch = scratchFolder();
const why = withoutChromium;
const rows = makeRows(16);
const recipe = { maxSteps: 8, batchSize: 4, learningRate: 2e-3, sequenceLength: 64, seed: 3, timing: false };
const tolerance = 1e-4;
const commit = "0123456789abcdef0123456789abcdef01234567";

describe.skipIf(why)(`lowrank/browser in headless Chromium${why && ` (skipped: ${why})`}`, () => {
  let opened: Visit;
  let context: BrowserContext;
  /** Cuts the first answer of the weights. */
  let cut = false;
  const model = join(scratch, "model");

  beforeAll(async () => {
    mkdirSync(model);
    writeTinyModel(model);
    const names = readdirSync(model);
    const sum = (name: string) =>
      createHash("sha256")
        .update(readFileSync(join(model, name)))
        .digest("hex");
    const sums = names.map((name) => `${sum(name)}  ${name}\n`).join("");
    const library = readFileSync(fileURLToPath(new URL("../../dist/browser/lowrank.js", import.meta.url)));
    opened = await visit(join(scratch, "profile"), (path, range): Served | undefined => {
      if (path === "/") return { type: "text/html", body: "<!doctype html><title>lowrank</title>" };
      if (path === "/lowrank.js") return { type: "text/javascript", body: library };
      if (path === "/model/SHA256SUMS" || path === "/wrong/SHA256SUMS") {
        const told = path.startsWith("/wrong") ? sums.replace(sum("config.json"), "0".repeat(64)) : sums;
        return { type: "text/plain", body: told };
      }
      if (path === "/api/models/own/er/revision/main") {
        const siblings = names.map((rfilename) => ({
          ...{ rfilename, size: readFileSync(join(model, rfilename)).length },
          ...(rfilename.endsWith(".safetensors") && { lfs: { sha256: sum(rfilename) } }),
        }));
        const listed = [
          ...siblings,
          { rfilename: "../outside.json" },
          { rfilename: "pytorch_model.bin", size: 1e12 },
        ];
        return { type: "application/json", body: JSON.stringify({ sha: commit, siblings: listed }) };
      }
      const [, folder, name] = /^\/(model|wrong|own\/er\/resolve\/[0-9a-f]{40})\/([\w.]+)$/.exec(path) ?? [];
      if (folder === undefined || name === undefined || !names.includes(name)) return undefined;
      const body = readFileSync(join(model, name));
      const cuts = cut && name.endsWith(".safetensors") && range === undefined;
      return { type: "application/octet-stream", body, cutAt: cuts ? 1000 : undefined };
    });
    ({ context } = opened);
  });
  afterAll(async () => opened?.[Symbol.asyncDispose]());

  async function newPage(): Promise<Page> {
    const page = await context.newPage();
    await page.goto(opened.origin);
    await page.evaluate('import("/lowrank.js").then((m) => void (globalThis.lowrank = m))');
    return page;
  }

  it("fetches a model over a cut connection, keeps it, and refuses what has another hash", async () => {
    cut = true;
    const page = await newPage();
    const first =
      await page.evaluate(`lowrank.openModel({ url: "/model" }, { backend: "reference" }).then((m) => {
      m.close(); return m.info })`);
    expect(first).toMatchObject({ architecture: "llama", storage: { kept: true } });
    expect(opened.asked).toContain("/model/model.safetensors bytes=1000-");
    const before = opened.asked.length;
    const stored = await page.evaluate(`lowrank.openModel({ url: "/model" }, { backend: "reference" })
      .then((m) => { m.close(); return lowrank.storedModels() })`);
    expect(opened.asked.slice(before)).toEqual([]);
    expect(stored).toMatchObject([{ name: "model", runs: [] }]);
    expect(await failure(page, 'lowrank.openModel({ url: "/wrong" })')).toMatch(
      /UserError: .*config\.json: its SHA-256 is .*, and 0{64} was expected/,
    );
    expect(await failure(page, 'lowrank.openModel({ stored: "nothing" })')).toMatch(
      /UserError: nothing: this browser holds no model/,
    );
    await page.close();
  });

  it("takes a model of the hub at one commit, files of the user, and rows of a CSV file", async () => {
    cut = false;
    const page = await newPage();
    const hub = `{ hub: "own/er", endpoint: location.origin }, { backend: "reference" }`;
    const read = `(name) => fetch("/model/" + name).then((answer) => answer.blob())`;
    const [first, second] = (await page.evaluate(`(async () => {
      const hub = await lowrank.openModel(${hub});
      const files = {};
      for (const name of ${JSON.stringify(readdirSync(model))}) files[name] = await (${read})(name);
      const own = await lowrank.openModel({ files, keep: false }, { name: "mine", backend: "reference" });
      const csv = new File(["prompt,completion\\n" + "ab,cd\\nde,fg\\nxy,zz\\n"], "rows.csv");
      const done = await own.train(csv, { maxSteps: 1, batchSize: 2 }).finished;
      const longer = await own.resume("run-1", { maxSteps: 2 }).finished;
      return [hub.info, [done.steps, longer.steps, own.info.name]];
    })()`)) as [object, unknown];
    expect(first).toMatchObject({ name: "er", architecture: "llama" });
    expect(second).toEqual([1, 2, "mine"]);
    expect(opened.asked.filter((path) => path.startsWith("/own/er/resolve/"))).toContain(
      `/own/er/resolve/${commit}/model.safetensors`,
    );
    expect(opened.asked.join()).not.toMatch(/outside|pytorch/);
    const stored = (await page.evaluate("lowrank.storedModels()")) as { name: string }[];
    expect(stored.map(({ name }) => name)).toContain("er");
    expect(stored.map(({ name }) => name)).not.toContain("mine");
    expect(await failure(page, `lowrank.openModel({ files: { "a.txt": new Blob(["x"]) } })`)).toMatch(
      /UserError: the files given hold no config\.json/,
    );
    await page.close();
  });

  it("goes on bit for bit after the tab was closed, in QLoRA without a GPU", async () => {
    const page = await newPage();
    const options = JSON.stringify({ ...recipe, run: "whole" });
    const whole = await adapterOf(
      page,
      `await model.attach({ method: "qlora", rank: 4 });
      await model.train(${JSON.stringify(rows)}, ${options}).finished;`,
      "reference",
    );
    await closeInMidRun(page, "parted", "qlora");
    const again = await newPage();
    const found = (await again.evaluate(`${openStored("reference")}.then((m) => m.runs())`)) as Run[];
    expect(found).toMatchObject([
      { name: "parted", status: "cut" },
      { name: "whole", status: "done", step: recipe.maxSteps },
    ]);
    expect(found[0]!.step).toBeLessThan(recipe.maxSteps);
    const parted = await adapterOf(again, "await model.resume().finished;", "reference");
    expect(parted.get("adapter_model.safetensors")).toEqual(whole.get("adapter_model.safetensors"));
    const runs = (await again.evaluate(`${openStored("reference")}.then((m) => m.runs())`)) as Run[];
    expect(runs[0]!.metrics).toEqual(runs[1]!.metrics);
    expect(
      await failure(
        again,
        `${openStored("reference")}.then((m) => m.train([{ text: "a" }], { run: "whole" }).finished)`,
      ),
    ).toMatch(/UserError: run whole: there is a run of this name/);
    expect(
      await failure(again, `${openStored("reference")}.then((m) => m.attach({ method: "full" }))`),
    ).toMatch(/UsageError: .*"full" is not done in a browser/);
    await again.close();
  });

  it("keeps no run that was refused, and says of one that failed why", async () => {
    const page = await newPage();
    const refused = "Array(4).fill({ prompt: 'a', completion: 'b' })";
    const train = (rows: string, options: object) =>
      failure(
        page,
        `${openStored("reference")}.then((m) => m.train(${rows}, ${JSON.stringify(options)}).finished)`,
      );
    expect(await train(refused, { ...recipe, run: "refused" })).toMatch(/UserError: .*duplicates/);
    expect(await train("new File(['x'], 'rows.txt')", { run: "refused" })).toMatch(
      /UserError: rows\.txt: expected/,
    );
    expect(await train(JSON.stringify(rows), { ...recipe, learningRate: 1e30, run: "wild" })).toMatch(
      /DivergedError/,
    );
    const runs = (await page.evaluate(`${openStored("reference")}.then((m) => m.runs())`)) as Run[];
    expect(runs.map(({ name }) => name)).not.toContain("refused");
    expect(runs[0]).toMatchObject({
      name: "wild",
      status: "failed",
      error: expect.stringMatching(/finite|diverge/i),
    });
    await page.close();
  });

  it("trains on WebGPU to the CPU's adapter over a closed tab, and answers with and without it", async (test) => {
    const page = await newPage();
    if (!(await page.evaluate("navigator.gpu?.requestAdapter().then((adapter) => adapter !== null)"))) {
      test.skip("this Chromium has no WebGPU adapter");
      return;
    }
    // Begun without the GPU, whose shaders take seconds to compile in each tab.
    await closeInMidRun(page, "gpu", "lora");
    const again = await newPage();
    const saved = await adapterOf(again, 'await model.resume("gpu").finished;', "webgpu");
    const from = join(scratch, "saved");
    mkdirSync(from);
    for (const [name, bytes] of saved) writeFileSync(join(from, name), bytes);
    const data = writeRows(join(scratch, "rows.jsonl"), rows);
    const out = join(scratch, "cpu");
    succeed(
      ...["train", "--model", model, "--data", data, "--out", out, "--rank", "4", "--max-steps", "8"],
      ...["--batch-size", "4", "--learning-rate", "2e-3", "--sequence-length", "64", "--seed", "3"],
      ...["--precision", "fp32"],
    );
    expect(await adapterDifference(from, out)).toBeLessThan(tolerance);
    const answers = (await again.evaluate(`${openStored("webgpu")}.then(async (m) => [
      await m.generate("ab", { maxNewTokens: 6, adapter: false }), await m.generate("ab", { maxNewTokens: 6 })])`)) as {
      text: string;
    }[];
    const cpu = [[], ["--adapter", from]].map((flags) => {
      const told = lowrank(
        ...["generate", "--model", model, ...flags, "--prompt", "ab", "--max-new-tokens", "6", "--json"],
        ...["--precision", "fp32"],
      );
      return JSON.parse(told.stdout).text;
    });
    expect(answers.map(({ text }) => text)).toEqual(cpu);
    await again.close();
  }, 300_000);

  /** Trains, and ends the worker and then the tab in mid-run, once the first checkpoint is there. */
  async function closeInMidRun(page: Page, run: string, method: string): Promise<void> {
    const options = JSON.stringify({ ...recipe, run, saveEvery: 2 });
    await page.evaluate(`${openStored("reference")}.then(async (model) => {
      await model.attach({ method: "${method}", rank: 4 });
      for await (const event of model.train(${JSON.stringify(rows)}, ${options}))
        if (event.type === "checkpoint") model.close();
    }).catch(() => {})`);
    await page.close();
  }
});

interface Run {
  readonly name: string;
  readonly step: number;
  readonly metrics: readonly unknown[];
}

const openStored = (backend: string) =>
  `lowrank.openModel({ stored: "model" }, { backend: "${backend}", precision: "fp32" })`;

/** Files of the adapter after some work with an open model. */
async function adapterOf(page: Page, work: string, backend: string): Promise<Map<string, Uint8Array>> {
  const files = (await page.evaluate(`${openStored(backend)}.then(async (model) => {
    ${work}
    const files = await model.saveAdapter();
    model.close();
    return Promise.all(files.map(async (file) => [file.name, [...new Uint8Array(await file.arrayBuffer())]]));
  })`)) as [string, number[]][];
  return new Map(files.map(([name, bytes]) => [name, Uint8Array.from(bytes)]));
}

async function failure(page: Page, call: string): Promise<string> {
  return (await page.evaluate(
    `${call}.then(() => "no failure", (error) => error.name + ": " + error.message)`,
  )) as string;
}
