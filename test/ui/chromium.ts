// A headless Chromium for tests of the page, where one is: Debian's, or what LOWRANK_CHROMIUM names.

import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";

const browserPath = [
  process.env.LOWRANK_CHROMIUM,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path !== undefined && existsSync(path));

/** Why tests are skipped; empty where a browser is. */
export const noChromium = browserPath ? "" : "no Chromium here: install one, or name it in LOWRANK_CHROMIUM";

export function openChromium(): Promise<Browser> {
  return chromium.launch({
    executablePath: browserPath,
    args: ["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info", "--js-flags=--expose-gc"],
  });
}
