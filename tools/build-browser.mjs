// Builds lowrank/browser: dist/browser/lowrank.js, one ES module with its worker's program inside, and lowrank-worker.js,
// the same program as a file for pages that allow no workers from blobs. The worker runs the modules that Node runs; what
// they import of Node is replaced by src/browser/platform, and the backends of Node's by nothing.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "vite";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const source = join(root, "src");
const browser = join(source, "browser");

const platform = (name) => join(browser, "platform", `${name}.ts`);
const absent = platform("absent");
const nodeModules = {
  "node:fs": platform("fs"),
  "node:fs/promises": platform("fs-promises"),
  "node:crypto": platform("crypto"),
  "node:os": platform("os"),
  "node:path": "pathe",
  // Patterns of files; a page gives its rows one file at a time.
  tinyglobby: absent,
};
/** What a page cannot have: the native engine, and what stands on it. */
const withoutBackends = ["backend/cpu.ts", "backend/cpu/addon.node.ts", "backend/cuda.ts"].map((path) =>
  join(source, path),
);
const noBackend = "\0lowrank:no-backend";
const workerText = join(browser, "worker-source.ts");

/** @param {string} [workerCode] the worker's bundle, for the page's */
function lowrankInBrowser(workerCode) {
  return {
    name: "lowrank-in-browser",
    enforce: "pre",
    async resolveId(id, importer) {
      if (id.startsWith("node:") || Object.hasOwn(nodeModules, id)) {
        const target = nodeModules[id] ?? absent;
        return target === "pathe" ? this.resolve(target, importer, { skipSelf: true }) : target;
      }
      if (importer && id.startsWith(".") && withoutBackends.includes(join(dirname(importer), id)))
        return noBackend;
      return undefined;
    },
    load(id) {
      if (id === noBackend) return noBackendModule;
      if (id === workerText && workerCode !== undefined)
        return `export const workerSource = ${JSON.stringify(workerCode)};`;
      return undefined;
    },
    transform(code, id) {
      if (!id.startsWith(root) || id.includes("node_modules") || !code.includes("import.meta.url"))
        return undefined;
      // Files beside a module are looked for in the worker's own file system.
      const path = relative(root, id)
        .split(sep)
        .join("/")
        .replace(/^src\//, "dist/")
        .replace(/\.ts$/, ".js");
      const place = `file:///lowrank/${path}`;
      return code.replaceAll("import.meta.url", JSON.stringify(place));
    },
  };
}

const noBackendModule = `
const none = { name: "none", open: async () => null, reason: () => "a browser has no such backend" };
export const cpu = none;
export const cuda = none;
export const cpuIsas = () => [];
export const hasCard = () => false;
export const whyNoCard = () => "";
export const loadNativeAddon = () => {
  throw new Error("a browser has no native engine");
};
`;

async function bundle(entry, format, plugin, minify) {
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const built = await build({
    configFile: false,
    root,
    logLevel: "warn",
    plugins: [plugin],
    define: { LOWRANK_VERSION: JSON.stringify(version) },
    build: {
      write: false,
      minify: minify ? "oxc" : false,
      target: "es2023",
      lib: { entry, name: "lowrank", formats: [format], fileName: "out" },
      rolldownOptions: { output: { codeSplitting: false } },
    },
  });
  const chunks = [built].flat().flatMap(({ output }) => output);
  if (chunks.length !== 1)
    throw new Error(`expected one chunk of ${entry}, got ${chunks.map((c) => c.fileName)}`);
  const [{ code, imports, dynamicImports, fileName }] = chunks;
  if (code.includes("({}).url") || code.includes("{}.url"))
    throw new Error(`${entry}: a module asks where it lies and is not told`);
  const left = [...imports, ...dynamicImports].filter((name) => name !== fileName);
  if (left.length > 0) throw new Error(`${entry} still imports ${left}`);
  return code;
}

/** Returns the two files' texts. */
export async function bundleBrowser({ minify = true } = {}) {
  // A script and no module: a page from the disk may start no module worker.
  const worker = await bundle(join(browser, "worker.ts"), "iife", lowrankInBrowser(), minify);
  const page = await bundle(join(browser, "index.ts"), "es", lowrankInBrowser(worker), minify);
  return { "lowrank.js": page, "lowrank-worker.js": worker };
}

/** What the bundle holds of others; their licenses want to travel with it. */
const bundled = [
  ...["@huggingface/jinja", "@huggingface/tokenizers", "@noble/hashes", "fzstd", "hyparquet"],
  ...["hyparquet-compressors", "papaparse", "pathe", "re2js", "yaml", "zod"],
];

function licenses() {
  const texts = bundled.map((name) => {
    const folder = join(root, "node_modules", name);
    const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
    const { license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    return `${name}\n\n${file ? readFileSync(join(folder, file), "utf8").trim() : license}\n`;
  });
  return texts.join("\n----\n\n");
}

export async function writeBrowser() {
  const files = await bundleBrowser();
  const out = join(root, "dist", "browser");
  mkdirSync(out, { recursive: true });
  for (const [name, code] of Object.entries(files)) writeFileSync(join(out, name), code);
  writeFileSync(join(out, "licenses.txt"), licenses());
  return files;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  for (const [name, code] of Object.entries(await writeBrowser())) {
    const [size, packed] = [code.length, gzipSync(code, { level: 9 }).length].map((bytes) =>
      Math.round(bytes / 1000),
    );
    console.log(`dist/browser/${name}: ${size} kB, ${packed} kB gzipped`);
  }
}
