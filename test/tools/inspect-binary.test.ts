// Libraries of every platform are read without being run: this machine's own addon, Dawn's of three systems as they lie
// in the package webgpu, and whatever tools/prebuild.mjs has compiled here. Not here: whether they run
// (tools/test-elsewhere.mjs).

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { platforms } from "../../native/prebuilt.mjs";
import { inspectBinary } from "../../tools/inspect-binary.mjs";
import { addonProblem } from "../../tools/prebuild.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const dawn = (name: string) => join(root, "node_modules/webgpu/dist", `${name}.dawn.node`);
const dawnInFolder = (name: string) => join(root, "node_modules/webgpu/dist", name, "dawn.node");
const pathOf = (name: string) => [dawn(name), dawnInFolder(name)].find(existsSync);
const own = join(root, "native/build/lowrank.node");

/** Apple's universal files hold a library for each processor: a table of (processor, _, offset, size, _) from byte 8. */
function slicesOf(bytes: Buffer): Buffer[] {
  return Array.from({ length: bytes.readUInt32BE(4) }, (_, i) => {
    const [offset, size] = [8, 12].map((field) => bytes.readUInt32BE(8 + i * 20 + field));
    return bytes.subarray(offset!, offset! + size!);
  });
}

describe("what a library says of itself", () => {
  it.skipIf(!existsSync(own) || process.platform !== "linux")("ELF: this machine's addon", () => {
    const facts = inspectBinary(readFileSync(own));
    expect(facts).toMatchObject({ format: "elf", machine: process.arch });
    expect(facts.exports).toEqual(expect.arrayContaining(["napi_register_module_v1"]));
    expect(facts.needs.some((name) => name.startsWith("libc."))).toBe(true);
  });

  it.skipIf(!pathOf("linux-arm64"))("ELF of another processor, with the glibc that it needs", () => {
    const facts = inspectBinary(readFileSync(pathOf("linux-arm64")!));
    expect(facts).toMatchObject({ format: "elf", machine: "arm64", glibc: expect.stringMatching(/^2\.\d+/) });
    expect(facts.exports).toContain("napi_register_module_v1");
  });

  it.skipIf(!pathOf("win32-x64"))("PE", () => {
    const facts = inspectBinary(readFileSync(pathOf("win32-x64")!));
    expect(facts).toMatchObject({ format: "pe", machine: "x64", glibc: "" });
    expect(facts.exports).toContain("napi_register_module_v1");
    expect(facts.needs.map((name) => name.toLowerCase())).toContain("kernel32.dll");
  });

  it.skipIf(!pathOf("darwin-universal"))("Mach-O", () => {
    const slices = slicesOf(readFileSync(pathOf("darwin-universal")!)).map((bytes) => inspectBinary(bytes));
    expect(slices.map(({ machine }) => machine).sort()).toEqual(["arm64", "x64"]);
    for (const facts of slices) {
      expect(facts.format).toBe("mach-o");
      expect(facts.exports).toContain("napi_register_module_v1");
      expect(facts.needs).toContain("/usr/lib/libSystem.B.dylib");
      expect(facts.minimumMacos).toMatch(/^\d+\.\d+$/);
    }
  });

  it("nothing else is taken for one", () => {
    expect(() => inspectBinary(Buffer.from("#!/bin/sh\n"))).toThrow("neither ELF");
  });
});

const good = {
  format: "elf",
  machine: "arm64",
  needs: ["libc.so.6", "libm.so.6"],
  exports: ["napi_register_module_v1", "node_api_module_get_api_version_v1"],
  glibc: "2.28",
} as const;

describe("what an addon may need", () => {
  it.each([
    ["", {}],
    ["it is elf for x64", { machine: "x64" }],
    ["it is pe for arm64", { format: "pe" as const }],
    ["it needs libstdc++.so.6", { needs: [...good.needs, "libstdc++.so.6"] }],
    ["it does not export napi_register_module_v1", { exports: [] }],
    ["it needs glibc 2.34", { glibc: "2.34" }],
    ["", { glibc: "2.4" }],
  ])("%s", (problem, facts) => {
    expect(addonProblem("linux-arm64", { ...good, ...facts })).toBe(problem);
  });

  it("on Apple's processors includes a signature", () => {
    const facts = { ...good, format: "mach-o", needs: ["/usr/lib/libSystem.B.dylib"], glibc: "" } as const;
    expect(addonProblem("darwin-arm64", { ...facts, minimumMacos: "11.0", isSigned: true })).toBe("");
    expect(addonProblem("darwin-arm64", { ...facts, minimumMacos: "13.0", isSigned: true })).toContain(
      "13.0",
    );
    expect(addonProblem("darwin-arm64", { ...facts, minimumMacos: "11.0", isSigned: false })).toContain(
      "signed",
    );
  });

  const compiled = Object.keys(platforms).map((name) => ({
    name,
    path: join(root, "native/build/cross", name, "lowrank.node"),
  }));
  it.each(compiled.filter(({ path }) => existsSync(path)))("$name as compiled here", ({ name, path }) => {
    expect(addonProblem(name, inspectBinary(readFileSync(path)))).toBe("");
  });
});
