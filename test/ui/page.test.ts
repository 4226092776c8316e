// The page of `lowrank ui` in a headless Chromium, over a server of made-up runs (fixture-server.ts): that charts have
// data, that nothing of a stranger's text runs, that it works by keyboard, on a phone, in the dark, on paper and after a
// reload, and that axe finds no serious fault. Over the real server: ui-runs.test.ts.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildPage } from "../../tools/build-page.mjs";
import { noChromium, openChromium } from "./chromium.ts";
import { type FixtureServer, hostile, openFixture } from "./fixture-server.ts";
import { drawnIn, faultsOf, overflowOf } from "./page-checks.ts";

/** What the page may weigh, packed, in all. */
const mostBytes = 150e3;

let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "lowrank-page-"));
  await buildPage(folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("is small, in one script and one style sheet, and names no other host", () => {
  const files = readdirSync(folder).map((name) => ({ name, bytes: readFileSync(join(folder, name)) }));
  const packed = files.reduce((sum, { bytes }) => sum + gzipSync(bytes).length, 0);
  expect(packed).toBeLessThan(mostBytes);
  expect(files.map(({ name }) => name.replace(/.*\./, "")).sort()).toEqual([
    "css",
    "html",
    "js",
    "svg",
    "txt",
  ]);
  for (const { name, bytes } of files.filter(({ name }) => !name.endsWith(".txt"))) {
    // Names of XML vocabularies are no addresses that anybody asks.
    const hosts = bytes.toString("utf8").match(/(?:https?:)?\/\/[a-z][\w-]*\.[\w.]+/gi) ?? [];
    expect(
      hosts.filter((host) => !host.endsWith("//www.w3.org")),
      name,
    ).toEqual([]);
  }
});

/** A loaded machine takes its time. */
const poll = <T>(look: () => T) => expect.poll(look, { timeout: 20_000 });

const views = {
  runs: "#/",
  training: "#/run/stories-r16",
  memory: "#/run/stories-r16?tab=memory",
  rows: "#/run/stories-r16?tab=rows",
  samples: "#/run/stories-r16?tab=samples",
  layers: "#/run/stories-r16?tab=layers",
  recipe: "#/run/stories-r16?tab=recipe",
  compare: "#/compare/compares%2Frecords",
  start: `#/new?values=${encodeURIComponent('{"model":"models/SmolLM-135M","rank":"16"}')}`,
} as const;
type ViewName = keyof typeof views;
/** What is there when a view has all that it asked for. */
const whole: Readonly<Record<ViewName, string>> = {
  runs: "figure canvas",
  training: "figure canvas",
  memory: ".memory-bar",
  rows: ".token",
  samples: ".answer",
  layers: ".heat button",
  recipe: ".command",
  compare: "table.compare",
  start: ".plan .verdict",
};

describe.skipIf(noChromium)(`in headless Chromium${noChromium && ` (skipped: ${noChromium})`}`, () => {
  let browser: Browser;
  let server: FixtureServer;
  const problems: string[] = [];

  beforeAll(async () => {
    [browser, server] = await Promise.all([openChromium(), openFixture(folder)]);
  });
  afterAll(async () => {
    await browser?.close();
    await server?.close();
  });

  /** A page of its own context, whose errors and requests elsewhere fail the test that ends with `quiet`. */
  async function open(options: BrowserContextOptions = {}): Promise<Page> {
    const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (line) => line.type() === "error" && problems.push(line.text()));
    page.on("request", (request) => {
      if (!request.url().startsWith(server.url)) problems.push(`asked ${request.url()}`);
    });
    return page;
  }
  async function show(page: Page, name: ViewName): Promise<void> {
    await page.goto(server.url + views[name]);
    await page.waitForSelector(whole[name]);
  }
  const quiet = () => expect(problems.splice(0)).toEqual([]);

  it("shows every view without a serious fault, and runs nothing that a text holds", async () => {
    const page = await open();
    for (const name of Object.keys(views) as ViewName[]) {
      await show(page, name);
      expect(await faultsOf(page), name).toEqual([]);
      expect(await page.title()).toMatch(/lowrank$/);
      expect(await page.locator("img, iframe, object, script:not([src])").count(), name).toBe(0);
      if (name === "samples" || name === "rows")
        expect(await page.locator("main").textContent()).toContain(hostile);
    }
    await page.context().close();
    quiet();
  });

  it("is readable in the dark, by the system's choice and by its own switch", async () => {
    const page = await open({ colorScheme: "dark" });
    const background = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    for (const name of Object.keys(views) as ViewName[]) {
      await show(page, name);
      expect(await faultsOf(page, ["color-contrast"]), name).toEqual([]);
    }
    const dark = await background();
    const toggle = page.getByRole("button", { name: /^Colors:/ });
    await toggle.click();
    expect(await background()).not.toBe(dark);
    await page.reload();
    await page.waitForSelector(whole.start);
    expect(await background()).not.toBe(dark);
    // Charts that are there when colors change look as those that are drawn afterwards, points too.
    const inks = () => Promise.all([1, 2].map(async (color) => (await drawnIn(page, "Loss", color)).pixels));
    await show(page, "training");
    const light = await inks();
    await toggle.click();
    await poll(async () => (await inks()).join()).not.toBe(light.join());
    const changed = await inks();
    await page.reload();
    await page.waitForSelector(whole.training);
    await poll(inks).toEqual(changed);
    await page.context().close();
    quiet();
  });

  it("fits a phone", async () => {
    const page = await open({ viewport: { width: 360, height: 740 }, hasTouch: true });
    for (const name of Object.keys(views) as ViewName[]) {
      await show(page, name);
      expect(await overflowOf(page), name).toBeLessThanOrEqual(0);
    }
    for (const name of ["runs", "start"] as const) {
      await show(page, name);
      expect(await faultsOf(page), name).toEqual([]);
    }
    await page.context().close();
    quiet();
  });

  it("draws the numbers: losses fall, evaluations have bars, a log scale and smoothing change the picture", async () => {
    const page = await open();
    await show(page, "training");
    await poll(async () => (await drawnIn(page, "Loss", 1)).pixels).toBeGreaterThan(1500);
    const loss = await drawnIn(page, "Loss", 1);
    expect(loss.width).toBeGreaterThan(0.8);
    expect(loss.end - loss.start).toBeGreaterThan(0.3);
    const evaluation = await drawnIn(page, "Loss", 2);
    // Three points with their bars.
    expect(evaluation.pixels).toBeGreaterThan(250);
    const rate = await drawnIn(page, "Learning rate", 1);
    expect(rate.end).toBeLessThan(rate.start);
    await page.getByLabel("Log scale").check();
    await poll(async () => (await drawnIn(page, "Loss", 1)).start).not.toBeCloseTo(loss.start, 3);
    const logged = await drawnIn(page, "Loss", 1);
    expect(logged.pixels).toBeGreaterThan(1500);
    await page.getByLabel("Smoothing").fill("0");
    await poll(async () => (await drawnIn(page, "Loss", 1)).pixels).toBeGreaterThan(1.15 * logged.pixels);
    // All of it is in the address.
    await page.reload();
    await page.waitForSelector(whole.training);
    expect(await page.getByLabel("Log scale").isChecked()).toBe(true);
    expect(await page.getByLabel("Smoothing").inputValue()).toBe("0");

    await show(page, "memory");
    const speed = await drawnIn(page, "Tokens a second", 1);
    const peak = await drawnIn(page, "Tokens a second", 2);
    expect(peak.pixels).toBeGreaterThan(300);
    expect(peak.start).toBeLessThan(speed.start);
    await show(page, "runs");
    for (const color of [1, 2, 3, 4, 5, 6])
      await poll(async () => (await drawnIn(page, "Training loss", color)).pixels).toBeGreaterThan(300);
    await page.getByLabel("Draw stories-r16").uncheck();
    await poll(async () => (await drawnIn(page, "Training loss", 1)).pixels).toBeLessThan(30);
    // The others keep their colors.
    await poll(async () => (await drawnIn(page, "Training loss", 2)).pixels).toBeGreaterThan(300);
    await show(page, "compare");
    for (const color of [1, 2, 3]) {
      await poll(async () => (await drawnIn(page, "loss against memory", color)).pixels).toBeGreaterThan(30);
      await poll(async () => (await drawnIn(page, "Training loss, smoothed", color)).pixels).toBeGreaterThan(
        200,
      );
    }
    await page.context().close();
    quiet();
  });

  it("works by keyboard: skip link, rows of the table, tabs, charts, tokens, dialogs", async () => {
    const page = await open();
    await show(page, "runs");
    const focused = () => page.evaluate(() => document.activeElement?.textContent ?? "");
    await page.keyboard.press("Tab");
    expect(await focused()).toBe("Skip to content");
    expect(
      await page.locator(".skip").evaluate((link) => link.getBoundingClientRect().top),
    ).toBeGreaterThanOrEqual(0);
    await page.keyboard.press("Enter");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("main");
    await page.getByRole("link", { name: "stories-r16" }).focus();
    await page.keyboard.press("ArrowDown");
    expect(await focused()).toBe("stories-r8");
    // One row of the table alone is on the way of the Tab key.
    expect(await page.locator('table.runs a[tabindex="0"]').count()).toBe(1);
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Enter");
    await page.waitForSelector(whole.training);

    await page.getByRole("tab", { name: "Training" }).focus();
    await page.keyboard.press("ArrowRight");
    expect(await focused()).toBe("Speed and memory");
    await page.waitForSelector(whole.memory);
    await page.keyboard.press("Home");
    const chart = page.getByRole("slider", { name: /^Loss/ });
    await chart.focus();
    await page.keyboard.press("Home");
    const told = () => chart.getAttribute("aria-valuetext");
    await poll(told).toMatch(/^step 1: .*training, smoothed \d[^,]*$/);
    await page.keyboard.press("ArrowRight");
    await poll(told).toMatch(/^step 2:/);
    expect(await chart.evaluate((element) => getComputedStyle(element).outlineStyle)).toBe("solid");

    await page.getByRole("button", { name: "Pause" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    expect(await faultsOf(page)).toEqual([]);
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    expect(server.posted.filter(({ path }) => path.endsWith("pause"))).toEqual([]);
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Pause" }).click();
    await poll(() => server.posted.some(({ path }) => path === "runs/stories-r16/pause")).toBe(true);

    await page.getByText("Numbers").first().click();
    const numbers = page.getByRole("region", { name: /^Loss, as a table/ }).locator("tbody tr");
    await poll(() => numbers.count()).toBeGreaterThan(50);
    await show(page, "rows");
    const tokens = page.getByRole("slider", { name: "Tokens of held-out.jsonl line 1", exact: true });
    await tokens.focus();
    await page.keyboard.press("End");
    await poll(() => tokens.getAttribute("aria-valuetext")).toMatch(
      /^"<\|endoftext\|>", id \d+: base .* nats .*tuned/,
    );
    await show(page, "layers");
    await page.locator('.heat [aria-pressed="true"]').focus();
    await page.keyboard.press("ArrowUp");
    await poll(() => page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toMatch(
      /layers\.10\./,
    );
    await page.context().close();
    quiet();
  });

  it("starts a run from a form that says beside each field what is wrong, and keeps it over a reload", async () => {
    const page = await open();
    await page.goto(`${server.url}#/new`);
    const model = page.getByLabel("Model needed");
    await model.waitFor();
    await page.getByRole("button", { name: "Start" }).click();
    await poll(() => page.evaluate(() => document.activeElement?.id)).toBe("field-model");
    expect(await page.locator("#field-data-help").textContent()).toContain("This is needed.");
    await model.fill("models/SmolLM-135M");
    await page.getByLabel("Data needed").fill("rows.jsonl");
    await page.getByLabel("Rank").fill("4.5");
    expect(await page.locator("#field-rank-help").textContent()).toContain(
      "Expected a whole number from 1 to 1024.",
    );
    await page.getByLabel("Rank").fill("16");
    await page.getByLabel("Epochs").fill("2");
    await page.getByLabel("Max steps").fill("100");
    await poll(() => page.locator(".field .error").allTextContents()).toEqual([
      expect.stringContaining("not both"),
    ]);
    await page.getByLabel("Epochs").fill("");
    await page.locator(".plan .verdict").waitFor();
    await page.getByText("Data 1").click();
    await page.getByLabel("Shuffle").uncheck();
    await page.reload();
    await model.waitFor();
    expect(await model.inputValue()).toBe("models/SmolLM-135M");
    await page.getByText("Data 1").click();
    expect(await page.getByLabel("Shuffle").isChecked()).toBe(false);
    await page.getByLabel("Name").fill("first");
    await page.getByRole("button", { name: "Start" }).click();
    await page.waitForSelector("#run-panel");
    expect(server.posted.find(({ path }) => path === "runs")?.body).toEqual({
      id: "first",
      values: { model: "models/SmolLM-135M", rank: 16, data: "rows.jsonl", maxSteps: 100, shuffle: false },
    });
    quiet();
    // What the server alone knows comes to its field too.
    await page.goto(`${server.url}#/new?values=${encodeURIComponent('{"model":"nowhere"}')}`);
    await page.getByText("--model nowhere: no such folder.").waitFor();
    expect(await page.locator("#field-model").getAttribute("aria-invalid")).toBe("true");
    problems.length = 0; // the browser tells of the 400
    await page.context().close();
  });

  it("prints in light colors, without switches, and with what is folded left out", async () => {
    const page = await open({ colorScheme: "dark" });
    await show(page, "training");
    await page.emulateMedia({ media: "print", colorScheme: "dark" });
    await poll(() => page.evaluate(() => document.documentElement.dataset.theme)).toBe("light");
    expect(await page.locator(".look").isVisible()).toBe(false);
    expect(await page.getByRole("button", { name: "Pause" }).isVisible()).toBe(false);
    await poll(async () => (await drawnIn(page, "Loss", 1)).pixels).toBeGreaterThan(1000);
    const paper = await page.pdf({ format: "A4" });
    expect(paper.length).toBeGreaterThan(20_000);
    await page.context().close();
    quiet();
  });
});
