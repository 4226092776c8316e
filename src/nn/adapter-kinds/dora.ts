// DoRA (Liu et al. 2024): y = m / ||W + s B A|| * (W x + s B A x) + bias, m and the norm by output row, the norm a constant
// of the backward pass. The rows' norms come from ||W||^2, made once, and products with A's few rows, so W + s B A never
// exists. As peft 0.21 (tuners/lora/dora.py): under dropout the unmasked input still passes W at its own size.

import { columnScale, type MagnitudeSpec, writeMagnitudeFactors } from "../../autograd/ops/columns.ts";
import type { Backend, Matrix, Tensor } from "../../backend/backend.ts";
import { dtypeBytes, encodeFrom } from "../../tensor/dtype.ts";
import { elementCount, viewOf } from "../../tensor/tensor.ts";
import { BugError } from "../../util/errors.ts";
import type { AdaptedLayer, AdapterKind, Attachment } from "./kind.ts";

const magnitudeName = "lora_magnitude";

export const dora: AdapterKind = {
  peftKeys: { use_dora: true },
  tensors: [{ name: magnitudeName, peftName: "lora_magnitude_vector", shape: (outputs) => [outputs] }],
  adaptsEmbeddings: false,
  notInGguf: "it scales each row of the weights (DoRA)",
  attach,
  mergeRows(rows, width, first, tensors) {
    const magnitude = tensors.get(magnitudeName)!.values;
    for (let row = 0; row * width < rows.length; row++) {
      const values = rows.subarray(row * width, (row + 1) * width);
      let squares = 0;
      for (const value of values) squares += value * value;
      const factor = squares > 0 ? magnitude[first + row]! / Math.sqrt(squares) : 0;
      for (let i = 0; i < width; i++) values[i]! *= factor;
    }
  },
};

function attach(backend: Backend, layer: AdaptedLayer, fresh: boolean): Attachment {
  const { a, b, scale, outputs } = layer;
  const magnitude = layer.tensors.get(magnitudeName);
  if (!magnitude) throw new BugError(`${layer.name} has no magnitudes`);
  const weight = "frozen" in layer.weight ? layer.weight.frozen : layer.weight.parameter.tensor;
  const own: Tensor[] = [];
  const vector = (): Tensor => {
    const tensor = allocate(backend, [outputs]);
    own.push(tensor);
    return tensor;
  };
  const squares = vector();
  addRowSquares(backend, weight, squares);
  const spec: MagnitudeSpec = { weight, squares, magnitude, a, b, scale };
  if (fresh) {
    // Training starts from the base model: the magnitudes are the norms.
    const [factors, norms] = [allocate(backend, [outputs]), allocate(backend, [outputs])];
    writeMagnitudeFactors(backend, spec, factors, norms);
    backend.cast({ x: norms, y: magnitude.tensor });
    for (const { buffer } of [factors, norms]) backend.free(buffer);
  }
  const free = () => {
    for (const { buffer } of own) backend.free(buffer);
  };
  if (magnitude.grad) return { columns: (tape) => columnScale(tape, spec), free };
  const [factors, norms] = [vector(), vector()];
  writeMagnitudeFactors(backend, spec, factors, norms);
  return {
    columns: (tape) => ({ magnitude, factors: tape.input(factors), norms: tape.input(norms) }),
    factors,
    free,
  };
}

/** Columns of W that are made at a time, as the product of rows of the identity. */
const columnsAtOnce = 256;

/** squares[o] = ||W[o]||^2, of any kind of weight. */
function addRowSquares(backend: Backend, weight: Matrix, squares: Tensor): void {
  const [outputs, inputs] = weight.shape as [number, number];
  backend.fill({ y: squares, value: 0 });
  const most = Math.min(columnsAtOnce, inputs);
  const [identity, columns] = [allocate(backend, [most, inputs]), allocate(backend, [most, outputs])];
  for (let start = 0; start < inputs; start += most) {
    const count = Math.min(most, inputs - start);
    if (!backend.holdsNothing) {
      const values = new Float32Array(count * inputs);
      for (let i = 0; i < count; i++) values[i * inputs + start + i] = 1;
      backend.write(identity.buffer, encodeFrom(values, backend.floatType));
    }
    const x = { ...identity, shape: [count, inputs] };
    const y = { ...columns, shape: [count, outputs] };
    backend.linear(x, [{ weight, y }]);
    backend.addColumnDots({ x: y, y, divisor: undefined, out: squares });
  }
  backend.free(identity.buffer);
  backend.free(columns.buffer);
}

function allocate(backend: Backend, shape: readonly number[]): Tensor {
  const dtype = backend.floatType;
  const buffer = backend.allocate(Math.max(4, elementCount(shape) * dtypeBytes[dtype]), "adapters");
  return viewOf(buffer, shape, dtype);
}
