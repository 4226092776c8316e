// Bundles the page of `lowrank ui` (src/ui/page) into dist/ui/page: one HTML file, one script, one style sheet, nothing
// from a network. What it is made with are development's packages: users get the bundle.
//   node tools/build-page.mjs

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const root = fileURLToPath(new URL("../src/ui/page", import.meta.url));
/** What the script and the style sheet hold of others; their licenses want to travel with them. */
const bundled = ["preact", "@preact/signals", "@preact/signals-core", "uplot"];

/** Writes the page into `folder`; without one, where the server looks for it. */
export async function buildPage(folder = fileURLToPath(new URL("../dist/ui/page", import.meta.url))) {
  rmSync(folder, { recursive: true, force: true });
  await build({
    root,
    configFile: false,
    logLevel: "warn",
    // The page may be served below any path.
    base: "./",
    publicDir: false,
    oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
    build: {
      outDir: folder,
      emptyOutDir: false,
      target: "es2022",
      // The server names what a page may load; pictures inlined as data: are none of it.
      assetsInlineLimit: 0,
      modulePreload: false,
      reportCompressedSize: false,
      rolldownOptions: {
        output: {
          entryFileNames: "page-[hash].js",
          assetFileNames: "page-[hash][extname]",
        },
      },
    },
  });
  const texts = bundled.map((name) => {
    const license = new URL(`../node_modules/${name}/LICENSE`, import.meta.url);
    return `${name}\n\n${readFileSync(license, "utf8").trim()}\n`;
  });
  writeFileSync(join(folder, "licenses.txt"), texts.join("\n----\n\n"));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildPage();
