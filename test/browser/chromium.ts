// A headless Chromium for the tests of lowrank/browser, with a profile that outlives it, so that a test can close the tab
// and come back. Files come from this process at an address that never leaves it. LOWRANK_CHROMIUM names a browser elsewhere.

import { existsSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
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

export interface Served {
  readonly type: string;
  readonly body: string | Buffer;
  /** The connection is cut after so many bytes. */
  readonly cutAt?: number;
}

export interface Visit extends AsyncDisposable {
  readonly context: BrowserContext;
  /** Where the files are given out: loopback, which browsers trust as they do https. */
  readonly origin: string;
  /** Requests that were answered, as "path range". */
  readonly asked: string[];
}

/** `serve` gives the file of a path; undefined is a 404. Ranges of it are answered as servers do. */
export async function visit(
  profile: string,
  serve: (path: string, range: string | undefined) => Served | undefined,
  viewport = { width: 900, height: 1200 },
): Promise<Visit> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://localhost").pathname;
    const { range } = request.headers;
    asked.push(range ? `${path} ${range}` : path);
    const file = serve(path, range);
    if (!file) return void response.writeHead(404).end("not found");
    const body = Buffer.from(file.body);
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
    const headers = { "content-type": file.type, "content-length": body.length - from };
    if (from > 0) {
      const contentRange = `bytes ${from}-${body.length - 1}/${body.length}`;
      response.writeHead(206, { ...headers, "content-range": contentRange });
    } else response.writeHead(200, headers);
    if (file.cutAt === undefined) return void response.end(body.subarray(from));
    response.write(body.subarray(from, file.cutAt), () => setTimeout(() => response.destroy(), 50));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const context = await chromium.launchPersistentContext(profile, {
    ...{ executablePath: chromiumPath, headless: true, viewport, acceptDownloads: true },
    args: [
      ...["--no-sandbox", "--enable-unsafe-webgpu", "--enable-features=Vulkan"],
      "--use-webgpu-adapter=swiftshader", // Chromium brings it, so that no GPU is needed
    ],
  });
  // Others may be at work on this machine.
  context.setDefaultTimeout(300_000);
  return {
    ...{ context, asked, origin: `http://localhost:${port}` },
    async [Symbol.asyncDispose]() {
      await context.close();
      server.closeAllConnections();
      server.close();
    },
  };
}
