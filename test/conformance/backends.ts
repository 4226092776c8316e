// The backends that conformance suites run on. A backend that this machine cannot open is skipped with its reason.

import type { Backend } from "../../src/backend/backend.ts";
import { openReference } from "../../src/backend/reference.ts";

export interface ConformanceBackend {
  readonly name: string;
  open(): Promise<Backend>;
  /** Why it cannot run here; empty when it can. */
  readonly skip: string;
}

export const conformanceBackends: ConformanceBackend[] = [
  { name: "reference f64", open: async () => openReference("f64"), skip: "" },
  { name: "reference f32", open: async () => openReference("f32"), skip: "" },
];
