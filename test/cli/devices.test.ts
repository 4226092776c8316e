// `lowrank devices` as a process: one JSON document, and a choice that agrees with what it lists.

import { expect, it } from "vitest";
import { succeed } from "../e2e/lowrank.ts";

it("lists what can compute here, and what auto takes", () => {
  const { stdout } = succeed("devices", "--json");
  const document = JSON.parse(stdout) as {
    auto: string;
    cpu: object;
    cuda: { missing?: string; software?: boolean; cards?: { compute: string }[] };
    webgpu: { missing?: string; software?: boolean; tiers?: string[] };
  };
  expect(document.cpu).toBeTypeOf("object");
  const hardware = document.webgpu.missing === undefined && !document.webgpu.software;
  const card = document.cuda.missing === undefined && !document.cuda.software;
  expect(document.auto).toBe(card ? "cuda" : hardware ? "webgpu" : "cpu");
  if (document.cuda.missing !== undefined) expect(document.cuda.missing).toMatch(/NVIDIA|compute capability/);
  if (document.webgpu.missing === undefined) expect(document.webgpu.tiers).toContain("f32");
});
