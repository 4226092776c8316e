// What tests ask of a page in the browser: faults that axe finds, pixels of a chart, what is wider than the screen.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Browser, Page } from "playwright-core";

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Serious and critical faults, one a line; `rules` for a few of axe's only. */
export async function faultsOf(page: Page, rules?: readonly string[]): Promise<string[]> {
  // Past the page's own policy, which lets no script in but its own.
  const client = await page.context().newCDPSession(page);
  await client.send("Runtime.evaluate", { expression: axeSource });
  await client.detach();
  return page.evaluate(async (only) => {
    const { axe } = globalThis as unknown as { axe: typeof import("axe-core") };
    const options = only ? { runOnly: { type: "rule" as const, values: [...only] } } : {};
    const { violations } = await axe.run(document, { ...options, resultTypes: ["violations"] });
    return violations
      .filter(({ impact }) => impact === "serious" || impact === "critical")
      .flatMap(({ id, nodes }) =>
        nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 200)} ${failureSummary}`),
      );
  }, rules);
}

/** How far the document is wider than its window, in pixels. */
export function overflowOf(page: Page): Promise<number> {
  return page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
}

export interface Drawn {
  /** Pixels near the color of a series. */
  readonly pixels: number;
  /** Mean heights of them in the first and the last eighth of the columns that have any, 0 at the top and 1 below. */
  readonly start: number;
  readonly end: number;
  /** Share of the canvas' columns that have any. */
  readonly width: number;
}

/** Looks at the pixels of the chart with this title: those of the series of a color. */
export function drawnIn(page: Page, title: string, series: number): Promise<Drawn> {
  return page.evaluate(
    ([wanted, index]) => {
      const figure = [...document.querySelectorAll("figure")].find(
        (one) => one.querySelector("h3")?.textContent === wanted,
      );
      const canvas = figure?.querySelector("canvas");
      if (!canvas) return { pixels: 0, start: 0, end: 0, width: 0 };
      const probe = document.createElement("span");
      probe.style.color = `var(--series-${index})`;
      document.body.append(probe);
      const color = getComputedStyle(probe)
        .color.match(/[\d.]+/g)!
        .map(Number);
      probe.remove();
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d")!.getImageData(0, 0, width, height);
      const heights: number[][] = Array.from({ length: width }, () => []);
      let pixels = 0;
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) {
          const at = 4 * (y * width + x);
          const near = [0, 1, 2].every((c) => Math.abs(data[at + c]! - color[c]!) < 40);
          if (data[at + 3]! < 200 || !near) continue;
          pixels++;
          heights[x]!.push(y / height);
        }
      const filled = heights.filter((column) => column.length > 0);
      const eighth = Math.max(1, Math.floor(filled.length / 8));
      const mean = (columns: number[][]) => {
        const all = columns.flat();
        return all.reduce((sum, y) => sum + y, 0) / all.length;
      };
      return {
        pixels,
        start: mean(filled.slice(0, eighth)),
        end: mean(filled.slice(-eighth)),
        width: filled.length / width,
      };
    },
    [title, series] as const,
  );
}

/** Memory that the largest of the pages' processes has for itself alone; undefined where the system does not tell. */
export async function rendererBytes(browser: Browser): Promise<number | undefined> {
  const client = await browser.newBrowserCDPSession();
  const { processInfo } = await client.send("SystemInfo.getProcessInfo");
  await client.detach();
  const sizes = processInfo
    .filter(({ type }) => type === "renderer")
    .flatMap(({ id }) => {
      try {
        const text = readFileSync(`/proc/${id}/smaps_rollup`, "utf8");
        const kilobytes = [...text.matchAll(/^Private_(?:Clean|Dirty): +(\d+) kB/gm)].map(([, size]) =>
          Number(size),
        );
        return [1024 * kilobytes.reduce((sum, size) => sum + size, 0)];
      } catch {
        return [];
      }
    });
  return sizes.length === 0 ? undefined : Math.max(...sizes);
}
