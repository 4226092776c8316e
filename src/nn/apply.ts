// Runs linear layers with what is attached to them: layers that share an input in one call of the backend, then what an
// adapter's kind does to a product (adapter-kinds/). Not here: the product itself (autograd/ops/linear.ts).

import { scaleColumns, splitByDropout } from "../autograd/ops/columns.ts";
import { type LinearSpec, linear } from "../autograd/ops/linear.ts";
import type { Tape, Value } from "../autograd/tape.ts";
import { invariant } from "../util/errors.ts";
import { type Linear, type PassContext, specOf } from "./module.ts";

/** Results of layers on x [T, in], in order; `residual` is added to the only one's. */
export function applyLinears(
  tape: Tape,
  x: Value,
  layers: readonly Linear[],
  context: PassContext,
  residual?: Value,
): Value[] {
  context.observe?.linears(x, layers);
  const specs = layers.map((layer) => specOf(layer, context, withoutAnchor(tape, x, layer, residual)));
  const scaled = layers.map((layer) => layer.adapter?.attachment !== undefined);
  const together = specs.filter((spec, i) => !(scaled[i] && spec.adapter?.dropout));
  const products = linear(
    tape,
    x,
    together.map((spec) => (scaled[specs.indexOf(spec)] ? bare(spec) : spec)),
  );
  return layers.map((layer, i) => {
    const spec = specs[i]!;
    const product = products[together.indexOf(spec)];
    const columns = layer.adapter?.attachment?.columns(tape);
    if (!columns) return product!;
    invariant(!spec.rowAdapters?.length && !spec.rowWeights?.length, "adapters of rows on a scaled layer");
    if (product) return scaleColumns(tape, product, columns, { bias: spec.bias, residual });
    // What dropout takes from the adapter's input still passes the base weight, at its own size.
    const { kept, rest } = splitByDropout(tape, x, spec.adapter!.dropout!);
    const [base] = linear(tape, rest, [{ weight: spec.weight, bias: spec.bias, residual }]) as [Value];
    const adapter = { ...spec.adapter!, dropout: undefined };
    const [masked] = linear(tape, kept, [{ weight: spec.weight, adapter }]) as [Value];
    return scaleColumns(tape, masked, columns, { residual: base });
  });
}

/** The residual less what the layer's factors began as. */
function withoutAnchor(tape: Tape, x: Value, { adapter }: Linear, residual?: Value): Value | undefined {
  if (!adapter?.anchor) return residual;
  const { a, b } = adapter.anchor;
  const [u] = linear(tape, x, [{ weight: { parameter: a } }]) as [Value];
  return linear(tape, u, [{ weight: { parameter: b }, residual }])[0];
}

function bare(spec: LinearSpec): LinearSpec {
  return { ...spec, bias: undefined, residual: undefined };
}
