// `lowrank devices` as a process: one JSON document, and a choice that agrees with what it lists.

import { expect, it } from "vitest";
import { succeed } from "../e2e/lowrank.ts";

it("lists what can compute here, and what auto takes", () => {
  const { stdout } = succeed("devices", "--json");
  const document = JSON.parse(stdout) as {
    auto: string;
    cpu: object;
    webgpu: { missing?: string; software?: boolean; tiers?: string[] };
  };
  expect(document.cpu).toBeTypeOf("object");
  const hardware = document.webgpu.missing === undefined && !document.webgpu.software;
  expect(document.auto).toBe(hardware ? "webgpu" : "cpu");
  if (document.webgpu.missing === undefined) expect(document.webgpu.tiers).toContain("f32");
});
