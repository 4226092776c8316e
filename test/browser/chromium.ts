// A headless Chromium for the tests of lowrank/browser, with a profile that outlives it, so that a test can close the tab
// and come back. Files come from this process at an address that never leaves it. LOWRANK_CHROMIUM names a browser elsewhere.

import { existsSync } from "node:fs";
import { type BrowserContext, chromium } from "playwright-core";

export const chromiumPath = [
  process.env.LOWRANK_CHROMIUM,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path !== undefined && existsSync(path));

export const withoutChromium = chromiumPath
  ? ""
  : "no Chromium here: install one, or name it in LOWRANK_CHROMIUM";

/** Storage, locks and WebGPU want a secure address. */
export const origin = "https://localhost";

export interface Served {
  readonly type: string;
  readonly body: string | Buffer;
}

export interface Visit {
  readonly context: BrowserContext;
  /** Requests that were answered, as "path range". */
  readonly asked: string[];
}

/** `serve` gives the file of a path; undefined is a 404. Ranges of it are answered as servers do. */
export async function visit(
  profile: string,
  serve: (path: string) => Served | undefined,
  viewport = { width: 900, height: 1200 },
): Promise<Visit> {
  const context = await chromium.launchPersistentContext(profile, {
    ...{ executablePath: chromiumPath, headless: true, viewport, acceptDownloads: true },
    args: [
      ...["--no-sandbox", "--enable-unsafe-webgpu", "--enable-features=Vulkan"],
      "--use-webgpu-adapter=swiftshader", // Chromium brings it, so that no GPU is needed
    ],
  });
  const asked: string[] = [];
  await context.route("**/*", (route) => {
    const request = route.request();
    const path = new URL(request.url()).pathname;
    const range = request.headers().range;
    asked.push(range ? `${path} ${range}` : path);
    const file = serve(path);
    if (!file) return route.fulfill({ status: 404, body: "not found" });
    const body = Buffer.from(file.body);
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
    if (from === 0) return route.fulfill({ contentType: file.type, body });
    return route.fulfill({
      ...{ status: 206, contentType: file.type, body: body.subarray(from) },
      headers: { "content-range": `bytes ${from}-${body.length - 1}/${body.length}` },
    });
  });
  return { context, asked };
}
