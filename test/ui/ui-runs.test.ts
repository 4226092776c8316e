// The page over the real server: a run started from the form is paused, loses its server, is resumed and comes out as an
// uninterrupted one does; many long runs at once; nothing for other sites. How views look: page.test.ts.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createServer, get } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { lowrankMain, scratchFolder, succeed } from "../e2e/lowrank.ts";
import { noChromium, openChromium } from "./chromium.ts";
import { makeRun } from "./made-runs.ts";
import { drawnIn, rendererBytes } from "./page-checks.ts";

const scratch = scratchFolder();
const children = new Set<ChildProcess>();
afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
});

interface Ui {
  readonly url: string;
  readonly process: ChildProcess;
}

/** `lowrank ui` in the scratch folder. */
async function openUi(folder: string, port = 0, ...flags: string[]): Promise<Ui> {
  const child = spawn(process.execPath, [lowrankMain, "ui", folder, "--port", String(port), ...flags], {
    cwd: scratch,
    env: { ...process.env, NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.add(child);
  let text = "";
  for await (const piece of child.stdout!.setEncoding("utf8")) {
    text += piece;
    const [url] = /http:\S+/.exec(text) ?? [];
    if (url) return { url, process: child };
  }
  throw new Error(`lowrank ui ended: ${text}`);
}

async function kill({ process: child }: Ui): Promise<void> {
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  await gone;
  children.delete(child);
}

const recipe = {
  ...{ model: "tiny", data: "rows.jsonl", evalData: "held-out.jsonl", rank: 4, learningRate: 0.002 },
  // One thread, so that there is time to pause it in.
  ...{ maxSteps: 500, batchSize: 2, evalEvery: 200, saveEvery: 50, seed: 7, threads: 1 },
};

function writeData(): void {
  const names = ["Max", "Ann", "Tom", "Sue", "Kim", "Lou", "Ben", "Ida"];
  const places = ["shop", "castle", "lake", "hill", "farm", "school", "forest", "river"];
  const things = ["red crayon", "old boat", "tiny key", "green hat", "loud drum", "warm coat", "blue kite"];
  const rows = names.flatMap((who, i) =>
    places.map((where, j) => {
      const what = things[(3 * i + 5 * j) % things.length]!;
      return `${JSON.stringify({
        prompt: `${"So it was. ".repeat((i + 2 * j) % 4)}${who} went to the ${where} and found a ${what}. Record: `,
        completion: JSON.stringify({ who, where, what }),
      })}\n`;
    }),
  );
  writeFileSync(join(scratch, "rows.jsonl"), rows.filter((_, i) => i % 8 !== 3).join(""));
  writeFileSync(join(scratch, "held-out.jsonl"), rows.filter((_, i) => i % 8 === 3).join(""));
}

const allow = "near-duplicates,near-overlap";

/** 20 runs as a long night leaves them: 5,000 steps with 50 evaluations each. */
function writeLongRuns(folder: string, runs: number, steps: number): void {
  for (let run = 0; run < runs; run++) {
    const out = join(scratch, folder, `run-${String(run).padStart(2, "0")}`);
    mkdirSync(out, { recursive: true });
    const lines: string[] = [];
    for (let step = 1; step <= steps; step++) {
      const loss =
        (0.5 + 0.05 * run) * (1 + 4 * Math.exp(-step / 400)) * (1 + 0.2 * Math.sin(step * (run + 2)));
      const line = {
        type: "train",
        step,
        loss,
        learningRate: 1e-3 * (1 - step / steps),
        gradNorm: 1 + loss / 3,
      };
      const counts = {
        targetTokens: 900,
        tokens: 2000,
        tokensPerSecond: 600 + (step % 7),
        elapsedMs: 3300 * step,
      };
      lines.push(JSON.stringify({ ...line, ...counts }));
      if (step % 100 === 0)
        lines.push(
          JSON.stringify({ type: "eval", step, loss: loss + 0.1, lossStandardError: 0.02, perplexity: 2 }),
        );
    }
    writeFileSync(join(out, "metrics.jsonl"), `${lines.join("\n")}\n`);
    const options = { model: "tiny", out, method: "lora", rank: 8, data: "rows.jsonl", maxSteps: steps };
    writeFileSync(
      join(out, "run.json"),
      JSON.stringify({ status: "done", options, totalSteps: steps, device: "a test", precision: "bf16" }),
    );
  }
}

function lossesOf(folder: string): unknown[] {
  return readFileSync(join(scratch, folder, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .map(({ type, step, loss, gradNorm }) => [type, step, loss, gradNorm]);
}

describe.skipIf(noChromium)(
  `the page over the real server${noChromium && ` (skipped: ${noChromium})`}`,
  () => {
    let browser: Browser;
    beforeAll(async () => {
      writeData();
      browser = await openChromium();
    });
    afterAll(() => browser?.close());

    async function openPage(): Promise<Page> {
      const page = await (await browser.newContext({ viewport: { width: 1280, height: 860 } })).newPage();
      page.setDefaultTimeout(120_000);
      return page;
    }
    const state = (page: Page, word: string) =>
      page.locator(".run-head .state", { hasText: new RegExp(`^${word}$`) }).waitFor();
    const steer = async (page: Page, verb: string) => {
      await page.getByRole("button", { name: verb, exact: true }).click();
      await page.getByRole("dialog").getByRole("button", { name: verb, exact: true }).click();
    };

    it("a run started from the form is paused, loses its server to kill -9, is resumed, and is the run that was never stopped", async () => {
      const first = await openUi("runs");
      const page = await openPage();
      const values = Object.fromEntries(
        Object.entries({ ...recipe, allow }).map(([key, value]) => [key, String(value)]),
      );
      await page.goto(
        `${first.url}#/new?name=from-page&values=${encodeURIComponent(JSON.stringify(values))}`,
      );
      await page.locator(".plan .verdict.fits").waitFor();
      await page.getByRole("button", { name: "Start" }).click();
      await state(page, "Running");
      await page
        .locator(".run-head .progress .num", { hasText: /^[1-9]/ })
        .first()
        .waitFor();
      await steer(page, "Pause");
      await state(page, "Paused");
      expect(await page.locator(".run-head .share").textContent()).not.toBe("100%");

      await kill(first);
      await page.getByText("Connection lost").waitFor();
      const second = await openUi("runs", Number(new URL(first.url).port));
      await page.getByText("Connection lost").waitFor({ state: "detached" });
      // The page that was open all the while goes on; a reload would show the same.
      await steer(page, "Resume");
      await state(page, "Done");
      expect(await page.locator(".run-head .share").textContent()).toBe("100%");
      const loss = await drawnIn(page, "Loss", 1);
      expect(loss.pixels).toBeGreaterThan(1000);
      expect(loss.end - loss.start).toBeGreaterThan(0.3);
      expect((await drawnIn(page, "Loss", 2)).pixels).toBeGreaterThan(150);

      const flags = Object.entries({ ...values, out: "runs/uninterrupted" }).flatMap(([key, value]) => [
        `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
        /data|out/i.test(key) ? join(scratch, value) : value,
      ]);
      succeed("train", ...flags);
      const adapter = (run: string) => readFileSync(join(scratch, "runs", run, "adapter_model.safetensors"));
      expect(adapter("from-page").equals(adapter("uninterrupted"))).toBe(true);
      expect(lossesOf("runs/from-page")).toEqual(lossesOf("runs/uninterrupted"));

      // What the run learnt, through the base and through it.
      await page.goto(`${second.url}#/run/from-page?tab=rows`);
      const told = page.locator("article.row .card-head").first();
      await told.waitFor();
      const [, before, after] = /base ([\d.]+) · tuned ([\d.]+)/.exec((await told.textContent())!)!;
      expect(Number(after)).toBeLessThan(Number(before) / 2);
      await page.goto(`${second.url}#/run/from-page?tab=layers`);
      await page.locator(".heat button").first().waitFor();
      expect(await page.locator(".heat button").count()).toBe(28);
      await page.context().close();
      await kill(second);
    }, 300_000);

    it("other sites get nothing: no answer to a foreign Origin or Host, no run started", async () => {
      const ui = await openUi("elsewhere");
      const { port } = new URL(ui.url);
      const ask = (headers: Record<string, string>) =>
        new Promise<{ status: number; text: string }>((resolve, reject) => {
          get({ port, host: "127.0.0.1", path: "/api/runs", headers }, (response) => {
            let text = "";
            response.setEncoding("utf8").on("data", (piece: string) => (text += piece));
            response.on("end", () => resolve({ status: response.statusCode!, text }));
          }).on("error", reject);
        });
      expect((await ask({})).status).toBe(200);
      const foreign: Record<string, string>[] = [
        { host: `evil.example:${port}` },
        { origin: "http://evil.example" },
      ];
      for (const headers of foreign) {
        const { status, text } = await ask(headers);
        expect(status).toBe(403);
        expect(text).not.toContain('"runs"');
      }
      const other = createServer((_, response) =>
        response
          .writeHead(200, { "content-type": "text/html" })
          .end("<!doctype html><title>elsewhere</title>"),
      );
      await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
      const page = await openPage();
      await page.goto(`http://localhost:${(other.address() as AddressInfo).port}/`);
      const got = await page.evaluate(
        async ([url, body]) => {
          const read = await fetch(`${url}api/runs`).then(
            (answer) => answer.text(),
            () => "refused",
          );
          const json = { "content-type": "application/json" };
          const posted = await fetch(`${url}api/runs`, { method: "POST", headers: json, body }).then(
            (answer) => answer.text(),
            () => "refused",
          );
          // What a browser sends without asking first.
          await fetch(`${url}api/runs`, { method: "POST", mode: "no-cors", body }).catch(() => {});
          const frame = document.createElement("iframe");
          frame.src = url!;
          document.body.append(frame);
          await new Promise((resolve) => frame.addEventListener("load", resolve));
          return [read, posted, frame.contentDocument === null];
        },
        [ui.url, JSON.stringify({ id: "planted", values: { ...recipe, allow } })],
      );
      expect(got).toEqual(["refused", "refused", true]);
      expect(JSON.parse((await ask({})).text).runs).toEqual([]);
      const framed = page.frames().at(-1)!;
      expect(
        await framed
          .locator("#app *")
          .count()
          .catch(() => 0),
      ).toBe(0);
      await page.context().close();
      other.close();
      await kill(ui);
    });

    it("takes its key from the address, keeps it for the tab, and asks for it where there is none", async () => {
      const ui = await openUi("elsewhere", 0, "--api-key", "a key/with=signs");
      expect(ui.url).toContain("#key=");
      const page = await openPage();
      await page.goto(ui.url.replace(/#.*/, ""));
      await page.getByText("The server asks for its key").waitFor();
      await page.goto("about:blank");
      await page.goto(ui.url);
      await page.getByText("No runs here yet").waitFor();
      expect(page.url()).not.toContain("key");
      await page.reload();
      await page.getByText("No runs here yet").waitFor();
      await page.context().close();
      await kill(ui);
    });

    it("says of a run whose folder is removed or renamed that it is not here any more", async () => {
      makeRun(join(scratch, "passing"), "first", 20);
      makeRun(join(scratch, "passing"), "second", 20);
      const ui = await openUi("passing");
      const page = await openPage();
      await page.goto(`${ui.url}#/run/first`);
      await page.locator("figure canvas").first().waitFor();
      renameSync(join(scratch, "passing/first"), join(scratch, "passing/other"));
      await page.getByRole("heading", { name: "first is not here any more" }).waitFor({ timeout: 60_000 });
      await page.getByRole("link", { name: "All runs" }).click();
      await page.getByRole("link", { name: "other" }).waitFor();
      await page.context().close();
      await kill(ui);
    });

    it("opens 20 runs of 5,000 steps, all drawn, in little memory", async () => {
      const [runs, steps] = [20, 5000];
      writeLongRuns("long", runs, steps);
      const ui = await openUi("long");
      const page = await openPage();
      await page.goto(`${ui.url}#/new`);
      await page.locator("#run-name").waitFor();
      const begun = performance.now();
      await page.goto(ui.url);
      await page.locator(`figure .plot[data-lines="${runs}"] canvas`).waitFor();
      expect(await page.locator("table.runs tbody tr").count()).toBe(runs);
      const took = performance.now() - begun;
      const client = await page.context().newCDPSession(page);
      await client.send("HeapProfiler.collectGarbage");
      const { usedSize } = (await client.send("Runtime.getHeapUsage")) as { usedSize: number };
      const resident = await rendererBytes(browser);
      console.log(
        `20 runs of 5,000 steps: open after ${took.toFixed(0)} ms, ${(usedSize / 1e6).toFixed(1)} MB of JavaScript, ${((resident ?? 0) / 1e6).toFixed(0)} MB private to the page's process`,
      );
      for (const color of [1, 2, 3, 4, 5, 6, 7, 8])
        expect((await drawnIn(page, "Training loss", color)).pixels).toBeGreaterThan(400);
      // Of so many, the line that is turned to is told by itself.
      const chart = page.getByRole("slider", { name: /^Training loss/ });
      await chart.focus();
      await page.keyboard.press("ArrowDown");
      await expect
        .poll(() => chart.getAttribute("aria-valuetext"), { timeout: 20_000 })
        .toMatch(/^last: run-\d\d [\d.]+$/);
      expect(usedSize).toBeLessThan(60e6);
      if (resident !== undefined) expect(resident).toBeLessThan(150e6);
      await page.context().close();
      await kill(ui);
    });
  },
);
