// The backends that conformance suites run on: the reference, and the CPU under every instruction set of this machine
// in both precisions. A backend that this machine cannot open is skipped with its reason.

import { existsSync } from "node:fs";
import type { Backend, Precision } from "../../src/backend/backend.ts";
import { cpu } from "../../src/backend/cpu.ts";
import { loadNativeAddon } from "../../src/backend/native-addon.ts";
import { openReference } from "../../src/backend/reference.ts";

export interface ConformanceBackend {
  readonly name: string;
  /** Arithmetic that tests may hold to fp32 tolerances. */
  readonly exact: boolean;
  open(): Promise<Backend>;
  /** Why it cannot run here; empty when it can. */
  readonly skip: string;
}

function cpuBackends(): ConformanceBackend[] {
  if (!existsSync(new URL("../../native/build/lowrank.node", import.meta.url))) {
    return [{ name: "cpu", exact: true, open: async () => openReference(), skip: "the native addon is not built" }];
  }
  return loadNativeAddon().isas.flatMap((isa) =>
    (["fp32", "bf16"] satisfies Precision[]).map((precision) => ({
      name: `cpu ${isa} ${precision}`,
      exact: precision === "fp32",
      skip: "",
      async open() {
        const before = process.env.LOWRANK_ISA;
        process.env.LOWRANK_ISA = isa;
        try {
          return (await cpu.open({ precision }))!;
        } finally {
          if (before === undefined) delete process.env.LOWRANK_ISA;
          else process.env.LOWRANK_ISA = before;
        }
      },
    })),
  );
}

export const conformanceBackends: ConformanceBackend[] = [
  { name: "reference f64", exact: true, open: async () => openReference("f64"), skip: "" },
  { name: "reference f32", exact: true, open: async () => openReference("f32"), skip: "" },
  ...cpuBackends(),
];

/** Those held to transformers' own numbers. */
export const exactBackends = conformanceBackends.filter((backend) => backend.exact);
