// The rules of the house themselves: what tools/check-house.mjs refuses and lets pass.

import { expect, it } from "vitest";
// @ts-expect-error: a plain script without types.
import { checkFile, findCircles } from "../tools/check-house.mjs";

const errors = (path: string, code: string): string[] =>
  checkFile(path, `// What this is.\n${code}\n`).errors;

it.each([
  ["models/llama.ts", 'import { Linear } from "../nn/linear.ts";'],
  ["cli/train.ts", 'import { startTraining } from "../train/worker.ts";'],
  ["nn/lora.ts", 'import { linear } from "./linear.ts";'],
  ["index.ts", 'export { startTraining } from "./train/worker.ts";'],
  ["train/worker.ts", 'import { Worker } from "node:worker_threads";'],
  ["backend/webgpu/device.ts", 'const { create } = await import("webgpu");'],
  ["formats/hub.ts", "const answer = await fetch(url);"],
  ["serve/server.ts", 'import { createServer } from "node:http";'],
  ["nn/linear.ts", '// console.log, import "../cli/main.ts" and fetch( in a comment are nothing.'],
])("lets %s pass: %s", (path, code) => {
  expect(errors(path, code)).toEqual([]);
});

it.each([
  ["nn/lora.ts", 'import { adamw } from "../optim/adamw.ts";', "nn/ may not depend on optim/"],
  [
    "tensor/shape.ts",
    'import type { Backend } from "../backend/backend.ts";',
    "tensor/ may not depend on backend/",
  ],
  ["nn/lora.ts", 'import {\n  a,\n  b,\n} from "../models/llama.ts";', "nn/ may not depend on models/"],
  ["data/index.ts", 'export * from "../models/index.ts";', "data/ may not depend on models/"],
  ["train/run.ts", 'const { x } = await import("../cli/train.ts");', "train/ may not depend on cli/"],
  ["train/run.ts", 'import { x } from "../index.ts";', "for users of the package"],
  ["misc/x.ts", "", "no room"],
  ["backend/cpu.ts", 'import { create } from "webgpu";', 'may not import "webgpu"'],
  ["data/read-rows.node.ts", "await fetch(url);", "may not reach the network"],
  ["serve/server.ts", "await fetch(url);", "may not reach the network"],
  ["models/load-model.ts", 'import { open } from "node:fs/promises";', "may not use Node's own modules"],
  ["train/run.ts", 'console.log("step");', "may not print"],
  ["serve/server.ts", "process.exit(1);", "may not end the process"],
  ["models/llama.ts", 'process.dlopen(module, "x");', "may not load the native addon"],
])("refuses %s: %s", (path, code, message) => {
  expect(errors(path, code).join("\n")).toContain(message);
});

it("wants an opening comment and warns of length", () => {
  expect(checkFile("nn/x.ts", "export const x = 1;").errors[0]).toContain("open with a comment");
  expect(checkFile("cli/main.ts", "#!/usr/bin/env node\n// Entry.\n").errors).toEqual([]);
  expect(checkFile("nn/x.ts", `// X.\n${"\n".repeat(401)}`).warnings[0]).toContain("lines");
});

it("finds circles of imports, types among them, and nothing in a tree", () => {
  const circle = new Map([
    ["a/one.ts", 'import type { Two } from "./two.ts";'],
    ["a/two.ts", 'import { three } from "../b/three.ts";'],
    ["b/three.ts", 'export { one } from "../a/one.ts";\n// import "./four.ts"'],
    ["b/four.ts", 'import { three } from "./three.ts";'],
  ]);
  expect(findCircles(circle).map((files: string[]) => files.sort())).toEqual([
    ["a/one.ts", "a/two.ts", "b/three.ts"],
  ]);
  circle.set("b/three.ts", "export const three = 3;");
  expect(findCircles(circle)).toEqual([]);
});
