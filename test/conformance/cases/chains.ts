// Kernels one after another as a step calls them, where a backend may make of two what gives the same: rows that a norm, a
// gated activation or RoPE's gradient makes and a product reads next, with and without others who read or write them between.

import type { LinearGradPart, LinearPart } from "../../../src/backend/backend.ts";
import { elementCount, reshape, rows, type Tensor, tensorBytes, viewOf } from "../../../src/tensor/tensor.ts";
import type { Stage } from "../stage.ts";
import type { KernelCase, Outputs } from "./case.ts";

const [tokens, width, hidden, rank] = [70, 144, 200, 8];

/** Tensors of random numbers, in one buffer or in one each. */
function several(s: Stage, seed: number, shapes: readonly (readonly number[])[], inOne = true): Tensor[] {
  if (!inOne) return shapes.map((shape, i) => s.random(shape, seed + i, 0.2));
  const whole = s.random([shapes.reduce((sum, shape) => sum + elementCount(shape), 0)], seed, 0.2);
  let at = 0;
  return shapes.map((shape) => {
    const start = at;
    at += elementCount(shape);
    return reshape(rows(whole, start, at), shape);
  });
}

async function readAll(s: Stage, tensors: Readonly<Record<string, Tensor | undefined>>): Promise<Outputs> {
  const outputs: Outputs = {};
  for (const [name, tensor] of Object.entries(tensors)) if (tensor) outputs[name] = await s.read(tensor);
  return outputs;
}

/** Layers that share an input, with adapters. */
function layers(s: Stage, inputs: number, outputs: readonly number[], inOne: boolean) {
  const a = several(
    s,
    11,
    outputs.map(() => [rank, inputs]),
    inOne,
  );
  const b = several(
    s,
    21,
    outputs.map((count) => [count, rank]),
    inOne,
  );
  const u = outputs.map(() => s.zeros([tokens, rank]));
  const weights = outputs.map((count, i) =>
    s.random([count, inputs], 31 + i, 0.2, i === 0 ? undefined : "bf16"),
  );
  const adapters = outputs.map((_, i) => ({ a: a[i]!, b: b[i]!, u: u[i]!, scale: 2 + i }));
  return { weights, adapters };
}

interface Forward {
  /** Calls the kernel that makes the rows [tokens, inputs]. */
  make(s: Stage, x: Tensor, y: Tensor, more: Record<string, Tensor>): void;
  readonly inputs: number;
  readonly outputs: readonly number[];
}

const forwards: Record<string, Forward> = {
  rmsNorm: {
    ...{ inputs: width, outputs: [152, 72, 72] },
    make(s, x, y, more) {
      more.rstd = s.zeros([tokens]);
      const w = s.random([width], 2);
      s.backend.rmsNorm({ x, w, shift: 1, epsilon: 1e-5, y, rstd: more.rstd });
    },
  },
  gatedActivation: {
    ...{ inputs: hidden, outputs: [width] },
    make(s, x, y) {
      s.backend.gatedActivation({ activation: "silu", gate: x, up: s.random(x.shape, 3), y });
    },
  },
};

/** What comes between the kernel that makes rows and the product that reads them. */
const between: Record<string, (s: Stage, x: Tensor, y: Tensor) => void> = {
  nothing: () => {},
  "its input is written": (s, x) => s.backend.fill({ y: x, value: 9 }),
  "its rows are scaled": (s, _, y) => s.backend.scaleInPlace({ y, factor: 3 }),
};

function forwardCases(): KernelCase[] {
  return Object.entries(forwards).flatMap(([kernel, { make, inputs, outputs }]) =>
    Object.entries(between).flatMap(([what, happens]) =>
      (what === "nothing" ? [true, false] : [true]).map(
        (inOne): KernelCase => ({
          name: `${kernel}, then products with adapters in ${inOne ? "one buffer" : "buffers of their own"}; between them ${what}`,
          product: true,
          async run(s) {
            const [x, rowsMade] = [s.random([tokens, inputs], 1, 2), s.zeros([tokens, inputs])];
            const more: Record<string, Tensor> = {};
            const { weights, adapters } = layers(s, inputs, outputs, inOne);
            const parts = weights.map(
              (weight, i): LinearPart => ({
                ...{ weight, adapter: adapters[i]!, y: s.zeros([tokens, outputs[i]!]) },
              }),
            );
            make(s, x, rowsMade, more);
            happens(s, x, rowsMade);
            s.backend.linear(rowsMade, parts);
            const found: Record<string, Tensor> = { rowsMade, ...more };
            for (const [i, { y, adapter }] of parts.entries())
              Object.assign(found, { [`y${i}`]: y, [`u${i}`]: adapter!.u });
            return readAll(s, found);
          },
        }),
      ),
    ),
  );
}

/** The kernel's input is freed, and its memory may have become another's, before the product runs. */
const freed: KernelCase = {
  name: "rmsNorm of a tensor that is freed before a product reads the rows",
  product: true,
  async run(s) {
    const x = s.random([tokens, width], 1, 2);
    const bytes = tensorBytes(x.shape, x.dtype);
    const copy = viewOf(s.backend.allocate(bytes, "activations"), x.shape, x.dtype);
    s.backend.cast({ x, y: copy });
    const [w, y, rstd] = [s.random([width], 2), s.zeros(x.shape), s.zeros([tokens])];
    const weight = s.random([hidden, width], 3);
    s.backend.rmsNorm({ x: copy, w, shift: 0, epsilon: 1e-5, y, rstd });
    s.backend.free(copy.buffer);
    const other = viewOf(s.backend.allocate(bytes, "activations"), x.shape, x.dtype);
    s.backend.fill({ y: other, value: 7 });
    const out = s.zeros([tokens, hidden]);
    s.backend.linear(y, [{ weight, y: out }]);
    const outputs = await readAll(s, { y, rstd, out, other });
    s.backend.free(other.buffer);
    return outputs;
  },
};

interface Backward {
  /** Calls the kernel and says which gradients it made, in the order of the layers. */
  make(s: Stage): Tensor[];
}

const backwards: Record<string, Backward> = {
  "rmsNormBackward, which adds": {
    make(s) {
      const [x, w, dy] = [
        s.random([tokens, width], 1, 2),
        s.random([width], 2),
        s.random([tokens, width], 3),
      ];
      const [y, rstd, dx] = [s.zeros(x.shape), s.zeros([tokens]), s.random(x.shape, 4)];
      s.backend.rmsNorm({ x, w, shift: 1, epsilon: 1e-5, y, rstd });
      s.backend.rmsNormBackward({ x, w, shift: 1, rstd, dy, dx, accumulate: true, dw: undefined });
      return [dx];
    },
  },
  "gatedActivationBackward in place": {
    make(s) {
      const [gate, up, dy] = [1, 2, 3].map((seed) => s.random([tokens, hidden], seed, 2)) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      s.backend.gatedActivationBackward({ activation: "geluTanh", gate, up, dy, dGate: gate, dUp: up });
      return [gate, up];
    },
  },
  "gatedActivationBackward, the layers in the other order": {
    make: (s) => backwards["gatedActivationBackward in place"]!.make(s).reverse(),
  },
  "rope back, of two of three gradients": {
    make(s) {
      const positions = s.ints(
        [tokens],
        Array.from({ length: tokens }, (_, i) => (i * 7) % 50),
      );
      const [cos, sin] = [s.random([50, 12], 1), s.random([50, 12], 2)];
      return [6, 2, 2].map((heads, i) => {
        const gradient = s.random([tokens, heads * 32], 5 + i);
        const view = reshape(gradient, [tokens, heads, 32]);
        if (i < 2) s.backend.rope({ x: view, positions, cos, sin, direction: -1, y: view });
        return gradient;
      });
    },
  },
};

function backwardCases(): KernelCase[] {
  return Object.entries(backwards).flatMap(([kernel, { make }]) =>
    (["all adapted", "the last alone adapted", "factors in buffers of their own"] as const).map(
      (which): KernelCase => ({
        name: `${kernel}, then gradients through products: ${which}`,
        product: true,
        async run(s) {
          const inputs = 136;
          const gradients = make(s);
          const { weights, adapters } = layers(
            s,
            inputs,
            gradients.map(({ shape }) => shape[1]!),
            which !== "factors in buffers of their own",
          );
          const x = s.random([tokens, inputs], 9);
          const shapes = adapters.flatMap(({ a, b }) => [a.shape, b.shape]);
          const grads = several(s, 51, shapes);
          const last = gradients.length - 1;
          const parts = gradients.map((dy, i): LinearGradPart => {
            const adapter = { ...adapters[i]!, dA: grads[2 * i]!, dB: grads[2 * i + 1]! };
            const own = which === "the last alone adapted" && i < last ? undefined : adapter;
            return { weight: weights[i]!, dy, adapter: own };
          });
          for (const { u } of adapters) s.backend.fill({ y: u, value: 0.5 });
          const dx = s.random([tokens, inputs], 8);
          s.backend.linearBackward(x, parts, dx, true);
          const found: Record<string, Tensor> = { dx };
          for (const [i, grad] of grads.entries()) found[`grad${i}`] = grad;
          // Whoever reads the gradients afterwards finds them.
          for (const [i, dy] of gradients.entries()) found[`dy${i}`] = dy;
          return readAll(s, found);
        },
      }),
    ),
  );
}

export const chains: readonly KernelCase[] = [...forwardCases(), freed, ...backwardCases()];
