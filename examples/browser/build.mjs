// Builds the demo into dist/browser-demo/index.html: one file with everything inside (lowrank/browser, the tiny base, sample
// rows, style), which any static server gives out and a browser opens from the disk. With --serve it is given out on
// loopback. `npm run browser-demo` calls this.

import { createReadStream, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "vite";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const base = join(root, "models", "tiny-base");
const modelFiles = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
const sampleRows = 2000;
const heldOutStories = 20;
const port = 8675;

/** Returns the page's place. */
export async function buildDemo(out = join(root, "dist", "browser-demo")) {
  const { writeQuickstartData } = await import("../quickstart/make-data.mjs");
  const scratch = mkdtempSync(join(tmpdir(), "lowrank-demo-"));
  const { train, test } = writeQuickstartData(scratch);
  rmSync(scratch, { recursive: true });
  const lines = (rows) => rows.map((row) => JSON.stringify(row)).join("\n");
  const embedded = {
    rows: lines(train.slice(0, sampleRows)),
    heldOut: test.slice(0, heldOutStories),
    model: Object.fromEntries(
      modelFiles.map((name) => [name, readFileSync(join(base, name)).toString("base64")]),
    ),
  };
  const page = readFileSync(join(here, "index.html"), "utf8");
  const style = readFileSync(join(here, "demo.css"), "utf8");
  const put = (mark, text) => (html) => html.replace(`<!-- ${mark} -->`, () => text);
  const html = [
    put("style", `<style>\n${style}</style>`),
    put(
      "embedded",
      `<script id="embedded" type="application/json">${inHtml(JSON.stringify(embedded))}</script>`,
    ),
    put("script", `<script type="module">${inHtml(await bundleDemo())}</script>`),
  ].reduce((text, step) => step(text), page);
  mkdirSync(out, { recursive: true });
  const place = join(out, "index.html");
  writeFileSync(place, html);
  return place;
}

async function bundleDemo() {
  const built = await build({
    configFile: false,
    root,
    logLevel: "warn",
    resolve: { alias: { "lowrank/browser": join(root, "dist", "browser", "lowrank.js") } },
    build: {
      ...{ write: false, minify: false, target: "es2023" },
      lib: { entry: join(here, "demo.mjs"), formats: ["es"], fileName: "demo" },
    },
  });
  return [built].flat()[0].output[0].code;
}

/** What ends a script's text does not occur in it; the same text to JavaScript and JSON. */
function inHtml(text) {
  return text.replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");
}

async function main() {
  const { writeBrowser } = await import("../../tools/build-browser.mjs");
  await writeBrowser();
  const place = await buildDemo();
  const bytes = readFileSync(place);
  const kB = (n) => `${Math.round(n / 1000)} kB`;
  console.log(`${place}: ${kB(bytes.length)}, ${kB(gzipSync(bytes).length)} gzipped`);
  if (!process.argv.includes("--serve")) {
    console.log(`Open ${pathToFileURL(place)}, or give the folder to any static server.`);
    return;
  }
  const server = createServer((request, response) => {
    const found = request.url === "/" || request.url === "/index.html";
    response.writeHead(found ? 200 : 404, { "content-type": "text/html; charset=utf-8" });
    if (found) createReadStream(place).pipe(response);
    else response.end("not found");
  });
  server.listen(port, "127.0.0.1", () => console.log(`http://localhost:${port}/ (Ctrl-C ends it)`));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main();
