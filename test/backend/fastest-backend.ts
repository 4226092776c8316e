// The backend that tests of whole commands and servers run on: the CPU's engine, or where none is built the reference.
// Not where LOWRANK_ISA names a set that is not here: tests on the reference would say nothing of that set.

import { openBackend } from "../../src/backend/index.ts";

export const backendName = await openBackend("cpu").then(
  (backend) => {
    backend.close();
    return "cpu";
  },
  (error: unknown) => {
    if (process.env.LOWRANK_ISA) throw error;
    return "reference";
  },
);
