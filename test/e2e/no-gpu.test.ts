// Machines where WebGPU cannot run, or is too small: the real command says in one sentence what is missing and what to
// do, with code 1, and `devices` says the same without failing. Such machines are made of environment variables: Vulkan
// without drivers, a Vulkan loader that is no library, a Node that cannot find the package.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { findAdapter, webgpu } from "../../src/backend/webgpu.ts";
import {
  expectRefusal,
  lowrank,
  makeRows,
  scratchFolder,
  succeed,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(12));
let runs = 0;

/** Dawn tells of its own search on stderr, from native code and with places in its source. */
const withoutDawn = (stderr: string) => stderr.replace(/^Warning: .*\n(?: {4}at .*\n)*\n?/gm, "");

const run = (...more: string[]) =>
  lowrank(
    ...["train", "--model", model, "--data", data, "--out", join(folder, `out-${++runs}`)],
    ...["--backend", "webgpu", "--max-steps", "1", ...more],
  );
const train = (...more: string[]) => {
  const result = run(...more);
  return { ...result, stderr: withoutDawn(result.stderr) };
};

/** A folder in which the loader's place is taken by a file that is none. */
function brokenLoader(): string {
  const place = join(folder, "lib");
  mkdirSync(place, { recursive: true });
  writeFileSync(join(place, "libvulkan.so.1"), "");
  return place;
}

/** A module that Node imports first, and that hides the package. */
function withoutPackage(): string {
  const hooks = `export async function resolve(name, context, next) {
    if (name === "webgpu") throw new Error("Cannot find package 'webgpu'");
    return next(name, context);
  }`;
  const first = join(folder, "hide.mjs");
  const url = `data:text/javascript,${encodeURIComponent(hooks)}`;
  writeFileSync(first, `import { register } from "node:module"; register(${JSON.stringify(url)});`);
  return first;
}

const noDriver = join(folder, "no-driver.json");
const machines: Record<string, [Record<string, string>, ...(string | RegExp)[]]> = {
  "no driver": [
    { VK_DRIVER_FILES: noDriver, VK_ICD_FILENAMES: noDriver },
    ...["no graphics adapter", "install the driver", "--backend cpu"],
  ],
  "no Vulkan loader": [{ LD_LIBRARY_PATH: brokenLoader() }, "no graphics adapter", "libvulkan1"],
  "no package": [
    { NODE_OPTIONS: `--import=${withoutPackage()}` },
    ...['package "webgpu" could not be loaded', "npm install webgpu", "--backend cpu"],
  ],
};

const skip = (await findAdapter()) ? "" : webgpu.reason!();
const needsPackage = /package "webgpu"/.test(skip);

// Elsewhere than on Linux, WebGPU needs no Vulkan that could be taken away.
describe.skipIf(process.platform !== "linux" || needsPackage)("a machine with", () => {
  const before = { ...process.env };
  afterEach(() => {
    for (const key of Object.keys(process.env)) if (!(key in before)) delete process.env[key];
    Object.assign(process.env, before);
  });

  it.each(Object.entries(machines))("%s", (_, [environment, ...parts]) => {
    Object.assign(process.env, environment);
    expectRefusal(train(), 1, ['backend "webgpu" cannot run here', ...parts]);
    const devices = JSON.parse(succeed("devices", "--json").stdout);
    expect(devices.auto).toBe("cpu");
    expect(devices.webgpu.missing).toContain(parts[0]);
  });
});

describe.skipIf(skip)(`too little${skip ? ` (skipped: ${skip})` : ""}`, () => {
  it("memory: refused before the first step, with what would need less", () => {
    expectRefusal(train("--vram", "100kB"), 1, [/need [\d.]+ MB .* 0\.1 MB \(--vram\); use a smaller/]);
  });

  it("arithmetic: refused with what there is instead", () => {
    expectRefusal(train("--precision", "bf16"), 1, [/no bf16 .*use precision fp16/]);
  });
});
