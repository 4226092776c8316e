// Development in watch mode: `npm run dev`. TypeScript is compiled as it is saved, the native engine when a file of
// native/ changes, the page when one of src/ui/page does, and shaders are embedded anew. Tests in watch mode: `npx vitest`
// beside it.

import { spawn, spawnSync } from "node:child_process";
import { watch } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const node = (args) => spawnSync(process.execPath, args, { cwd: root, stdio: "inherit" }).status;
const settleMs = 300;

node(["native/build.mjs"]);
node(["tools/embed-wgsl.mjs"]);
node(["tools/build-page.mjs"]);
const compiler = spawn(
  process.execPath,
  ["node_modules/typescript/bin/tsc", "-p", "tsconfig.json", "--watch", "--preserveWatchOutput"],
  {
    cwd: root,
    stdio: "inherit",
  },
).on("exit", (code) => process.exit(code ?? 1));
for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => compiler.kill());

let waiting;
watch(join(root, "native"), { recursive: true }, (_, name) => {
  if (name === null || !/\.(cc|h|def|mjs)$/.test(name)) return;
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if (node(["native/build.mjs"]) === 0) console.log("native engine is up to date");
  }, settleMs);
});
// tsc sees shaders.ts change.
watch(join(root, "src", "backend", "webgpu", "kernels"), () => node(["tools/embed-wgsl.mjs"]));
let waitingPage;
watch(join(root, "src", "ui", "page"), { recursive: true }, () => {
  clearTimeout(waitingPage);
  waitingPage = setTimeout(() => node(["tools/build-page.mjs"]), settleMs);
});
