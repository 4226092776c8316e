// GELU as llama.cpp computes it on a CPU: looked up in a table by the input rounded to f16, with answers rounded to f16 (ggml,
// ggml-cpu/vec.h, GGML_GELU_FP16), whatever the types of the file. Nothing else of lowrank computes so: this shows that the
// table is all that keeps a file's numbers from ours.

import type { Backend } from "../../src/backend/backend.ts";
import type { Operands } from "../../src/backend/contract.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { type Tensor, tensorBytes, viewOf } from "../../src/tensor/tensor.ts";

/** Makes the backend's tanh GELU that table, for inputs below 10; what it returns undoes that. */
export function withTableGelu(backend: Backend): () => void {
  const { gatedActivation, expertActivation } = backend;
  const activate = (operands: Operands<"gatedActivation">) => gatedActivation.call(backend, operands);
  const allocate = (shape: readonly number[], dtype: DType) =>
    viewOf(backend.allocate(tensorBytes(shape, dtype), "workspace"), shape, dtype);
  const rounded = (x: Tensor): Tensor => {
    const [half, y] = [allocate(x.shape, "f16"), allocate(x.shape, "f32")];
    backend.cast({ x, y: half });
    backend.cast({ x: half, y });
    backend.free(half.buffer);
    return y;
  };
  const lookUp = (operands: Operands<"gatedActivation">) => {
    if (operands.activation !== "geluTanh") return activate(operands);
    const gate = rounded(operands.gate);
    const exact = allocate(gate.shape, "f32");
    backend.fill({ y: exact, value: 1 });
    activate({ activation: "geluTanh", gate, up: exact, y: exact });
    const found = rounded(exact);
    activate({ activation: "identity", gate: found, up: operands.up, y: operands.y });
    for (const { buffer } of [gate, exact, found]) backend.free(buffer);
  };
  const lookUpEach = (operands: Operands<"expertActivation">) => {
    const { activation, limit, x, y } = operands;
    if (activation !== "geluTanh" || limit > 0) return expertActivation.call(backend, operands);
    const [rows, width] = y.shape as [number, number];
    const whole = { ...x, shape: [rows, 2 * width] };
    const halves = [0, width].map((from) => {
      const half = allocate([rows, width], "f32");
      backend.copyColumns({ x: whole, from, y: half, to: 0, count: width });
      return half;
    }) as [Tensor, Tensor];
    lookUp({ activation, gate: halves[0], up: halves[1], y });
    for (const { buffer } of halves) backend.free(buffer);
  };
  Object.assign(backend, { gatedActivation: lookUp, expertActivation: lookUpEach });
  return () => void Object.assign(backend, { gatedActivation, expertActivation });
}
