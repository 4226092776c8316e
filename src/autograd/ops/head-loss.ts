// Output head and cross-entropy together, chunk by chunk over the tokens that have a target: all logits never
// exist at once, and tokens without a target never meet the head. The gradient is made in the forward pass,
// while a chunk's logits are there; the backward pass only hands it on.

import type { Adapter, Matrix, Tensor } from "../../backend/backend.ts";
import { rows } from "../../tensor/tensor.ts";
import { BugError, invariant } from "../../util/errors.ts";
import type { Tape, Value } from "../tape.ts";
import type { ColumnScale } from "./columns.ts";
import type { LinearSpec, LinearWeight } from "./linear.ts";

export interface HeadLossSpec {
  readonly weight: LinearWeight; // [V, C]
  readonly adapter?: LinearSpec["adapter"];
  /** What scales the logits, in place of the adapter's dropout: the two do not go together here. */
  readonly columns?: ColumnScale;
  /** Multiplies the logits, 1 when absent; then cap * tanh(logits / cap), where there is a cap. */
  readonly logitScale?: number;
  readonly softCap?: number;
  /** Rows of x that have a target, i32 [N]; and their targets, i32 [N]. */
  readonly rows: Tensor;
  readonly targets: Tensor;
  /** Gradient of the step's loss by each token's loss: 1 / target tokens of the whole step. */
  readonly gradScale: number;
  /** Logits of at most this many bytes exist at a time. */
  readonly chunkBytes: number;
}

const dropoutRows = 64;

/** Losses [N], one a target; x [T, C]. The caller keeps the result through run(). */
export function headLoss(tape: Tape, x: Value, spec: HeadLossSpec): Value {
  const { backend } = tape;
  const count = spec.rows.shape[0]!;
  const weight: Matrix = "frozen" in spec.weight ? spec.weight.frozen : spec.weight.parameter.tensor;
  const dWeight = "parameter" in spec.weight ? spec.weight.parameter.grad : undefined;
  const [vocabulary, width] = weight.shape as [number, number];
  const [dA, dB] = [spec.adapter?.a.grad, spec.adapter?.b.grad];
  const trains = dWeight !== undefined || dA !== undefined;
  const { columns, logitScale = 1, softCap = 0 } = spec;
  invariant(!(columns && spec.adapter?.dropout), "headLoss: scaled logits under dropout");
  const dMagnitude = columns?.magnitude.grad;
  const wantsGrad = tape.recording && (x.needsGrad || trains);
  const losses = tape.value([count], false);
  const all = count === x.shape[0]!;
  const scaleBy = ({ factors }: ColumnScale, from: Tensor, to: Tensor) =>
    backend.scaleColumns({ x: from, factors: factors.data, bias: undefined, residual: undefined, y: to });
  let dx: Tensor | undefined;
  tape.record({
    name: "headLoss",
    inputs: [x, ...(columns ? [columns.factors, columns.norms] : [])],
    outputs: [losses],
    forward() {
      const selected = all ? x.data : tape.allocateTensor([count, width], "activations");
      if (!all) backend.gatherRows({ x: x.data, index: spec.rows, y: selected });
      const dSelected =
        wantsGrad && x.needsGrad ? tape.allocateTensor([count, width], "activations") : undefined;
      const copies = 1 + (dMagnitude ? 1 : 0) + (softCap > 0 && wantsGrad ? 1 : 0);
      const fitting = Math.max(1, Math.floor(spec.chunkBytes / (4 * vocabulary * copies)));
      // Masks belong to a chunk: with dropout its size must not depend on memory.
      const chunk = Math.min(count, spec.adapter?.dropout ? dropoutRows : fitting);
      const logits = tape.allocateTensor([chunk, vocabulary], "logits");
      // The magnitudes' gradient needs the logits as they were before.
      const unscaled = dMagnitude ? tape.allocateTensor([chunk, vocabulary], "logits") : logits;
      // So does the soft cap's, as they come out of it.
      const gradients =
        softCap > 0 && wantsGrad ? tape.allocateTensor([chunk, vocabulary], "logits") : logits;
      const rank = spec.adapter?.a.tensor.shape[0];
      const u = rank === undefined ? undefined : tape.allocateTensor([chunk, rank], "workspace");
      for (let start = 0; start < count; start += chunk) {
        const end = Math.min(count, start + chunk);
        const part = rows(logits, 0, end - start);
        const input = rows(selected, start, end);
        const adapter = adapterOf(spec, u, start, end);
        const product = rows(unscaled, 0, end - start);
        backend.linear(input, [{ weight, adapter, y: product }]);
        if (columns) scaleBy(columns, product, part);
        if (logitScale !== 1) backend.scaleInPlace({ y: part, factor: logitScale });
        if (softCap > 0) backend.softCap({ x: part, cap: softCap, y: part });
        const grad = rows(gradients, 0, end - start);
        backend.crossEntropy({
          logits: part,
          targets: rows(spec.targets, start, end),
          loss: rows(losses.data, start, end),
          dLogits: wantsGrad ? grad : undefined,
          gradScale: spec.gradScale * logitScale,
        });
        if (wantsGrad && softCap > 0) backend.softCapBackward({ y: part, cap: softCap, dy: grad, dx: grad });
        if (wantsGrad && columns) {
          if (dMagnitude) {
            const divisor = columns.norms.data;
            backend.addColumnDots({ x: grad, y: product, divisor, out: dMagnitude });
          }
          scaleBy(columns, grad, grad);
        }
        if (wantsGrad) {
          const target = dSelected && rows(dSelected, start, end);
          const grads = { weight, dy: grad, adapter: adapter && { ...adapter, dA, dB }, dWeight };
          backend.linearBackward(trains ? input : undefined, [grads], target, false);
        }
      }
      backend.free(logits.buffer);
      if (unscaled !== logits) backend.free(unscaled.buffer);
      if (gradients !== logits) backend.free(gradients.buffer);
      if (u) backend.free(u.buffer);
      if (!all) backend.free(selected.buffer);
      if (!dSelected) return;
      if (all) {
        dx = dSelected;
      } else {
        dx = tape.allocateTensor(x.shape, "activations");
        backend.fill({ y: dx, value: 0 });
        backend.scatterRows({ x: dSelected, index: spec.rows, y: dx });
        backend.free(dSelected.buffer);
      }
    },
    backward: x.needsGrad
      ? () => {
          if (!dx) throw new BugError("headLoss: backward without forward");
          if (x.grad) {
            backend.addInPlace({ x: dx, y: x.grad });
            backend.free(dx.buffer);
          } else tape.giveGrad(x, dx);
          dx = undefined;
        }
      : undefined,
    dispose() {
      if (dx) backend.free(dx.buffer);
      dx = undefined;
    },
  });
  return losses;
}

/** The head's adapter for a chunk of the targets, whose dropout masks are its own. */
function adapterOf(
  { adapter }: HeadLossSpec,
  u: Tensor | undefined,
  start: number,
  end: number,
): Adapter | undefined {
  if (!adapter || !u) return undefined;
  const { a, b, scale, dropout } = adapter;
  const seed = dropout && (dropout.seed + Math.imul(start, 0x9e3779b1)) >>> 0;
  return {
    a: a.tensor,
    b: b.tensor,
    scale,
    dropout: dropout && { ...dropout, seed: seed! },
    u: rows(u, 0, end - start),
  };
}
