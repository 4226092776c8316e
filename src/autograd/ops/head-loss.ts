// Output head and cross-entropy together, chunk by chunk over the tokens that have a target: all logits never
// exist at once, and tokens without a target never meet the head. The gradient is made in the forward pass,
// while a chunk's logits are there; the backward pass only hands it on. Where each target's share of the step's loss is
// known only once all losses are (`later`), the backward pass scales what was made, or, for a head that trains and adds up
// what its targets give, makes the logits once more.

import type { Adapter, Backend, Matrix, Tensor } from "../../backend/backend.ts";
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
  /** Rows of x that have a target, i32 [N]; and their targets, i32 [N]. With `later`, rows may repeat. */
  readonly rows: Tensor;
  readonly targets: Tensor;
  /** Gradient of the step's loss by each token's loss: 1 / target tokens of the whole step. */
  readonly gradScale: number;
  /** In place of gradScale, one for each token: f32 [N, 1], written by the time of the backward pass. */
  readonly later?: { readonly factors: Tensor /** 0..N-1, i32 [N, 1]. */; readonly each: Tensor };
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
  const { later } = spec;
  const losses = tape.value([count], false);
  const all = count === x.shape[0]! && !later;
  const scaleBy = ({ factors }: ColumnScale, from: Tensor, to: Tensor) =>
    backend.scaleColumns({ x: from, factors: factors.data, bias: undefined, residual: undefined, y: to });
  let dx: Tensor | undefined;

  /** All chunks: writes `loss`, and where `grads` adds to parameters' gradients and returns that of the selected rows. */
  const run = (loss: (start: number, end: number) => Tensor, grads: boolean, factors?: Tensor) => {
    const selected = all ? x.data : tape.allocateTensor([count, width], "activations");
    if (!all) backend.gatherRows({ x: x.data, index: spec.rows, y: selected });
    const dSelected = grads && x.needsGrad ? tape.allocateTensor([count, width], "activations") : undefined;
    const apart = softCap > 0 && grads;
    const copies = 1 + (dMagnitude ? 1 : 0) + (apart ? 1 : 0) + (factors ? 1 : 0);
    const fitting = Math.max(1, Math.floor(spec.chunkBytes / (4 * vocabulary * copies)));
    // Masks belong to a chunk: with dropout its size must not depend on memory.
    const chunk = Math.min(count, spec.adapter?.dropout ? dropoutRows : fitting);
    const scratch = (wanted: boolean, otherwise: Tensor) =>
      wanted ? tape.allocateTensor([chunk, vocabulary], "logits") : otherwise;
    const logits = tape.allocateTensor([chunk, vocabulary], "logits");
    // The magnitudes' gradient needs the logits as they were before.
    const unscaled = scratch(dMagnitude !== undefined, logits);
    // So does the soft cap's, as they come out of it.
    const gradients = scratch(apart, logits);
    const weighted = scratch(factors !== undefined, gradients);
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
      const made = rows(gradients, 0, end - start);
      backend.crossEntropy({
        logits: part,
        targets: rows(spec.targets, start, end),
        loss: loss(start, end),
        dLogits: grads ? made : undefined,
        gradScale: (later ? 1 : spec.gradScale) * logitScale,
      });
      if (!grads) continue;
      if (apart) backend.softCapBackward({ y: part, cap: softCap, dy: made, dx: made });
      const grad = rows(weighted, 0, end - start);
      if (factors)
        scaleRows(backend, made, rows(factors, start, end), rows(later!.each, 0, end - start), grad);
      if (columns) {
        if (dMagnitude) {
          const divisor = columns.norms.data;
          backend.addColumnDots({ x: grad, y: product, divisor, out: dMagnitude });
        }
        scaleBy(columns, grad, grad);
      }
      const target = dSelected && rows(dSelected, start, end);
      const parts = { weight, dy: grad, adapter: adapter && { ...adapter, dA, dB }, dWeight };
      backend.linearBackward(trains ? input : undefined, [parts], target, false);
    }
    for (const tensor of new Set([logits, unscaled, gradients, weighted])) backend.free(tensor.buffer);
    if (u) backend.free(u.buffer);
    if (!all) backend.free(selected.buffer);
    return dSelected;
  };

  /** Hands the gradient of x on. */
  const give = (grad: Tensor) => {
    if (x.grad) {
      backend.addInPlace({ x: grad, y: x.grad });
      backend.free(grad.buffer);
    } else tape.giveGrad(x, grad);
  };
  const deferred = {
    forward() {
      dx = run((start, end) => rows(losses.data, start, end), wantsGrad && !trains);
    },
    backward() {
      const { factors, each } = later!;
      const scratch = trains ? tape.allocateTensor([count], "workspace") : undefined;
      let bySlot = scratch ? run((start, end) => rows(scratch, start, end), true, factors) : dx;
      if (scratch) backend.free(scratch.buffer);
      else {
        if (!dx) throw new BugError("headLoss: backward without forward");
        bySlot = tape.allocateTensor([count, width], "activations");
        scaleRows(backend, dx, factors, each, bySlot);
        backend.free(dx.buffer);
        dx = undefined;
      }
      if (!bySlot) return;
      const grad = tape.allocateTensor(x.shape, "activations");
      backend.fill({ y: grad, value: 0 });
      backend.embeddingBackward({ ids: spec.rows, dy: bySlot, dTable: grad });
      backend.free(bySlot.buffer);
      give(grad);
    },
  };
  const atOnce = {
    forward() {
      const dSelected = run((start, end) => rows(losses.data, start, end), wantsGrad);
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
          give(dx);
          dx = undefined;
        }
      : undefined,
  };
  const inputs = [x, ...(columns ? [columns.factors, columns.norms] : [])];
  tape.record({
    name: "headLoss",
    inputs,
    outputs: [losses],
    ...(later && wantsGrad ? { ...deferred, saves: trains ? inputs : [] } : atOnce),
    dispose() {
      if (dx) backend.free(dx.buffer);
      dx = undefined;
    },
  });
  return losses;
}

/** y[i] = factors[i] x[i]. */
function scaleRows(backend: Backend, x: Tensor, factors: Tensor, each: Tensor, y: Tensor): void {
  backend.combineExperts({ z: x, slots: each, weights: factors, residual: undefined, y });
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
