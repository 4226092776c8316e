// `lowrank devices` as a process: one JSON document, and a choice that agrees with what it lists.

import { expect, it } from "vitest";
import { loadNativeAddon } from "../../src/backend/cpu/addon.node.ts";
import { backendName, lowrank, succeed } from "../e2e/lowrank.ts";

/** LOWRANK_ISA for what `body` starts. */
function heldTo<T>(isa: string, body: () => T): T {
  const before = process.env.LOWRANK_ISA;
  process.env.LOWRANK_ISA = isa;
  try {
    return body();
  } finally {
    if (before === undefined) delete process.env.LOWRANK_ISA;
    else process.env.LOWRANK_ISA = before;
  }
}

it.skipIf(backendName !== "cpu")("says which instruction set LOWRANK_ISA holds the engine to", () => {
  const { isas } = loadNativeAddon();
  const isa = isas.at(-2) ?? isas[0]!;
  const { stdout } = heldTo(isa, () => succeed("devices", "--json"));
  const { cpu } = JSON.parse(stdout) as { cpu: Record<string, unknown> };
  expect(cpu).toMatchObject({ isa, isas, held: true });
  expect(cpu.description).toMatch(new RegExp(`^${isa}, `));
  // Its own instructions for bf16 decide what is fastest, not the machine's.
  expect(cpu.precision).toBe(/bf16|amx/.test(isa) ? "bf16" : "fp32");
  const text = heldTo(isa, () => succeed("devices")).stdout;
  expect(text).toContain(`held to that set by LOWRANK_ISA, of ${isas.join(", ")}`);
});

it.skipIf(backendName !== "cpu")("refuses an instruction set that there is not, or not here", () => {
  const { isas } = loadNativeAddon();
  const elsewhere = isas.includes("neon") ? "avx2" : "neon";
  const here = isas.join(", ");
  for (const [isa, reason] of [
    [
      "avx3",
      "there is no such instruction set; expected one of amx, avx512bf16, avx512, avx2, neon, portable",
    ],
    [elsewhere, "this machine does not run that instruction set"],
  ] as const) {
    const refused = heldTo(isa, () => lowrank("bench", "--model", "tiny", "--backend", "cpu"));
    expect(refused.status).toBe(1);
    expect(refused.stderr).toContain(`LOWRANK_ISA=${isa}: ${reason}`);
    expect(refused.stderr).toMatch(new RegExp(`runs ${here}$`, "m"));
    const text = heldTo(isa, () => succeed("devices")).stdout;
    expect(text).toContain(`cpu     not here: LOWRANK_ISA=${isa}: ${reason}`);
    if (/^auto +cpu/m.test(text)) expect(text).toMatch(/^auto +cpu, which is not here/m);
  }
});

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
