// The second embedding of tokens, with a part for each layer (Gemma 4): a row of a table of its own, plus what a projection
// makes of the first embedding. The table stays on the host, and rows of a pass's tokens come with its batch; where all
// weights train it lies on the device like any other. What a layer does with its part is blocks/per-layer-input.ts.

import { splitColumns } from "../autograd/ops/columns.ts";
import { embedding, scaled } from "../autograd/ops/layers.ts";
import type { Parameter, Tape, Value } from "../autograd/tape.ts";
import type { Backend, Tensor } from "../backend/backend.ts";
import { applyLinears } from "../nn/apply.ts";
import type { Linear } from "../nn/module.ts";
import { decodeToF32, encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import { invariant } from "../util/errors.ts";
import type { DecoderWeights } from "./blocks/block.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { perLayerNames } from "./decoder-weights.ts";
import { type ForwardOptions, norm, type TokenBatch } from "./pass.ts";

export interface PerLayerEmbedding {
  readonly projection: Linear;
  /** Its weights on the device besides. */
  readonly others: readonly Parameter[];
  /** As the decoder's; undefined where no weight here has this name. */
  replace(name: string, parameter: Parameter): (() => void) | undefined;
  /** What a batch brings for these tokens, in memory that is the caller's; undefined where the table is on the device. */
  rows(ids: ArrayLike<number>): Tensor | undefined;
  /** Each layer's part, [T, width], of tokens that are embedded as x. */
  run(tape: Tape, x: Value, batch: TokenBatch, options: ForwardOptions): readonly Value[];
}

export function perLayerEmbedding(
  backend: Backend,
  config: DecoderConfig,
  weights: DecoderWeights,
): PerLayerEmbedding | undefined {
  const { perLayer, layers, width } = config;
  if (!perLayer) return undefined;
  const all = layers.length * perLayer.width;
  const names = perLayerNames;
  const onHost = weights.hostRows(`${names.table}.weight`);
  const table = onHost ? undefined : weights.parameter(`${names.table}.weight`);
  let normWeight = weights.parameter(`${names.norm}.weight`);
  const factor = roundedToWeights(backend, Math.sqrt(perLayer.width));
  const projection: Linear = {
    ...{ name: names.projection, inputs: width, outputs: all },
    weight: weights.linear(`${names.projection}.weight`),
  };
  return {
    projection,
    get others() {
      return [normWeight, ...(table ? [table] : [])];
    },
    replace(name, parameter) {
      if (name !== normWeight.name) return undefined;
      const before = normWeight;
      normWeight = parameter;
      return () => void (normWeight = before);
    },
    rows(ids) {
      if (!onHost) return undefined;
      const dtype = backend.floatType;
      const bytes = backend.holdsNothing ? undefined : encodeFrom(onHost.gather(ids, factor), dtype);
      const shape = [ids.length, all];
      const buffer = backend.allocate(ids.length * all * (dtype === "f64" ? 8 : 4), "workspace");
      if (bytes) backend.write(buffer, bytes);
      return viewOf(buffer, shape, dtype);
    },
    run(tape, x, batch, options) {
      const [projected] = applyLinears(tape, x, [projection], options.context) as [Value];
      const sized = scaled(tape, projected, width ** -0.5);
      const named = table ? scaled(tape, embedding(tape, batch.ids, table), factor) : given(tape, batch);
      const sum = scaled(tape, norm({ tape, config, options }, sized, normWeight, named), Math.SQRT1_2);
      return splitColumns(
        tape,
        sum,
        layers.map(() => perLayer.width),
      );
    },
  };
}

function given(tape: Tape, { perLayer }: TokenBatch): Value {
  invariant(perLayer, "a batch without its tokens' embeddings for each layer");
  return tape.input(perLayer);
}

/** A factor as it multiplies weights of the device's precision, which the reference keeps it in. */
export function roundedToWeights({ precision }: Backend, factor: number): number {
  if (precision === "fp32") return factor;
  const dtype = precision === "bf16" ? "bf16" : "f16";
  return decodeToF32(encodeFrom([factor], dtype), dtype)[0]!;
}
