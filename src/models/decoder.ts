// The forward pass that the LLaMA family shares: embedding, blocks (blocks/) around a residual stream, final norm, head.
// Recorded on a tape; backward comes from the ops. Sequences lie end to end, [T, C].

import { type HeadLossSpec, headLoss } from "../autograd/ops/head-loss.ts";
import { addConstant, embedding, gather, scaled, softCapped } from "../autograd/ops/layers.ts";
import { type LinearWeight, linear } from "../autograd/ops/linear.ts";
import { checkpoint, type Parameter, type Tape, type Value } from "../autograd/tape.ts";
import type { Backend, BlockStack, Matrix, QuantizedStack, Tensor } from "../backend/backend.ts";
import { applyLinears } from "../nn/apply.ts";
import {
  type Adaptable,
  isExperts,
  type Linear,
  type PassContext,
  rowsWith,
  specOf,
  type TableFactors,
} from "../nn/module.ts";
import { RopeCache } from "../nn/rope-tables.ts";
import { rows, tensorBytes, viewOf } from "../tensor/tensor.ts";
import { BugError, invariant } from "../util/errors.ts";
import { type Block, type DecoderWeights, isLayer, makeBlock, runBlock } from "./blocks/block.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { embeddingName, headName } from "./decoder-weights.ts";
import { type ForwardOptions, type KeysAndValues, norm, type TokenBatch } from "./pass.ts";
import { type PerLayerEmbedding, perLayerEmbedding, roundedToWeights } from "./per-layer-embedding.ts";

export type { DecoderWeights } from "./blocks/block.ts";
export type { ForwardOptions, KeyValueStore, TokenBatch } from "./pass.ts";

const inference: PassContext = { training: false, seed: 0, pass: 0 };

export class Decoder {
  embeddingTable: Parameter;
  /** A low-rank adapter of the embedding table. */
  embeddingAdapter: TableFactors | undefined;
  readonly head: Linear;
  private finalNorm: Parameter;
  readonly blocks: readonly Block[];
  readonly ropeCache: RopeCache;
  readonly perLayer: PerLayerEmbedding | undefined;
  private readonly ones: Tensor | undefined;

  constructor(
    readonly backend: Backend,
    readonly config: DecoderConfig,
    weights: DecoderWeights,
  ) {
    this.embeddingTable = weights.parameter(`${embeddingName}.weight`);
    this.finalNorm = weights.parameter(`${config.finalNorm}.weight`);
    this.head = {
      name: headName,
      inputs: config.width,
      outputs: config.vocabularySize,
      weight: config.tied ? tiedHead(this.embeddingTable) : weights.linear(`${headName}.weight`),
    };
    this.blocks = config.layers.map((_, i) => makeBlock(config, weights, i));
    this.ropeCache = new RopeCache(backend, config.ropes);
    this.perLayer = perLayerEmbedding(backend, config, weights);
    this.ones = config.valueNorm ? onesFor(backend, config) : undefined;
  }

  /** Frees what is the decoder's own: its weights are not. */
  free(): void {
    this.ropeCache.free();
    if (this.ones) this.backend.free(this.ones.buffer);
  }

  /** Every layer but the head that adapters attach to, in order: linear ones, and those of experts. */
  get layers(): Adaptable[] {
    const ofBlocks = this.blocks.flatMap(({ parts }) =>
      Object.values(parts).flatMap((part) => (part && isLayer(part) ? [part] : [])),
    );
    return this.perLayer ? [this.perLayer.projection, ...ofBlocks] : ofBlocks;
  }

  /** The linear ones of them. */
  get linears(): Linear[] {
    return this.layers.filter((layer): layer is Linear => !isExperts(layer));
  }

  /** The weight of a name in the checkpoint; a tied head's is the embedding's. */
  weight(name: string): Matrix | QuantizedStack | BlockStack {
    if (name === `${embeddingName}.weight`) return this.embeddingTable.tensor;
    if (name === this.finalNorm.name) return this.finalNorm.tensor;
    const own = this.perLayer?.others.find((parameter) => parameter.name === name);
    if (own) return own.tensor;
    for (const { name: layer, weight, bias } of [...this.layers, this.head]) {
      if (name === `${layer}.weight`) return "frozen" in weight ? weight.frozen : weight.parameter.tensor;
      if (name === `${layer}.bias` && bias) return bias.tensor;
    }
    for (const { parts } of this.blocks)
      for (const part of Object.values(parts))
        if (part && !isLayer(part) && part.name === name) return part.tensor;
    throw new BugError(`the decoder has no weight ${name}`);
  }

  /** Puts a parameter in the place of a weight, by the checkpoint's name for it; what it returns undoes that. */
  replace(name: string, parameter: Parameter): () => void {
    if (name === `${embeddingName}.weight`) {
      const before = this.embeddingTable;
      this.embeddingTable = parameter;
      return () => void (this.embeddingTable = before);
    }
    if (name === this.finalNorm.name) {
      const before = this.finalNorm;
      this.finalNorm = parameter;
      return () => void (this.finalNorm = before);
    }
    const undo = this.perLayer?.replace(name, parameter);
    if (undo) return undo;
    const layer = [...this.layers, this.head].find((known) => name.startsWith(`${known.name}.`));
    if (layer) {
      const { weight, bias } = layer;
      if (name.endsWith(".bias")) layer.bias = parameter;
      else layer.weight = { parameter };
      return () => void Object.assign(layer, { weight, bias });
    }
    for (const { parts } of this.blocks) {
      for (const [key, before] of Object.entries(parts)) {
        if (!before || isLayer(before) || before.name !== name) continue;
        parts[key] = parameter;
        return () => void (parts[key] = before);
      }
    }
    throw new BugError(`the decoder has no weight ${name}`);
  }

  /** Last hidden states after the final norm: [T, C]. */
  forward(tape: Tape, batch: TokenBatch, options: ForwardOptions): Value {
    let x = this.embed(tape, batch, options.context);
    const { config, ones } = this;
    const perLayer = this.perLayer?.run(tape, x, batch, options);
    const handed = new Map<number, KeysAndValues>();
    for (const block of this.blocks) {
      const { keysFrom, keysRead, kvHeads, headWidth } = block.layer;
      const own = perLayer?.[block.index];
      const given = keysFrom === undefined ? [] : handed.get(keysFrom);
      invariant(given, `layer ${block.index} attends to keys that layer ${keysFrom} did not make`);
      const run = (t: Tape, inputs: readonly Value[]) => {
        const made: Value[] = [];
        const [input, ...others] = inputs as [Value, ...Value[]];
        const result = runBlock(
          {
            ...{ tape: t, config, batch, options, ones },
            perLayer: own && others.pop(),
            given: keysFrom === undefined ? undefined : (others as unknown as KeysAndValues),
            hand: (values) => made.push(...values),
          },
          input,
          block,
        );
        return [result, ...made];
      };
      const inputs = [x, ...given, ...(own ? [own] : [])];
      const keys = [x.shape[0]!, kvHeads * headWidth];
      const shapes = [x.shape, ...(keysRead ? [keys, keys] : [])];
      const [result, ...made] = options.checkpointing
        ? checkpoint(tape, inputs, shapes, run)
        : run(tape, inputs);
      if (keysRead) handed.set(block.index, made as unknown as KeysAndValues);
      x = result!;
    }
    return norm({ tape, config, options }, x, this.finalNorm);
  }

  private embed(tape: Tape, { ids, noise }: TokenBatch, context: PassContext): Value {
    const x = this.embedUnscaled(tape, ids, context);
    const factor = this.embeddingScale;
    if (!noise) return factor === 1 ? x : scaled(tape, x, factor);
    // Where the reference scales inside its table (Gemma), noise comes after; else it is scaled with the embeddings.
    const late = this.config.embeddingScaleRounded;
    const sized = late && factor !== 1 ? scaled(tape, x, factor) : x;
    const noisy = addConstant(tape, sized, noise);
    return late || factor === 1 ? noisy : scaled(tape, noisy, factor);
  }

  /** As it multiplies: the reference keeps a rounded one in the weights' own precision. */
  private get embeddingScale(): number {
    const { embeddingScale, embeddingScaleRounded } = this.config;
    return embeddingScaleRounded ? roundedToWeights(this.backend, embeddingScale) : embeddingScale;
  }

  private embedUnscaled(tape: Tape, ids: Tensor, context: PassContext): Value {
    const { adapterRows } = context;
    const table = this.embeddingTable;
    const own = rowsWith(adapterRows, "parameter", (group) => group.replaced?.get(table.name));
    const x = embedding(tape, ids, table, own);
    for (const { start, end, factors } of rowsWith(adapterRows, "factors", (group) => group.embedding))
      addTableRows(tape, ids, x, start, end, factors);
    if (!this.embeddingAdapter) return x;
    const { a, b, scale } = this.embeddingAdapter;
    const u = scaled(tape, embedding(tape, ids, a), scale);
    return linear(tape, u, [{ weight: { parameter: b }, residual: x }])[0]!;
  }

  /** Losses [N] of the targets; see autograd/ops/head-loss.ts. */
  loss(
    tape: Tape,
    hidden: Value,
    spec: Pick<HeadLossSpec, "rows" | "targets" | "gradScale" | "later" | "chunkBytes">,
    context: PassContext = inference,
  ): Value {
    const { weight, adapter } = specOf(this.head, context);
    const columns = this.head.adapter?.attachment?.columns(tape);
    const { logitScale, logitSoftCap: softCap } = this.config;
    return headLoss(tape, hidden, { weight, adapter, columns, logitScale, softCap, ...spec });
  }

  /**
   * Logits [n, V] of the hidden states [T, C] that `rows` (i32 [n]) names; of all when it is absent. `context` has
   * adapters by rows of the logits.
   */
  logits(tape: Tape, hidden: Value, rows?: Tensor, context: PassContext = inference): Value {
    const selected = rows ? gather(tape, hidden, rows) : hidden;
    const [logits] = applyLinears(tape, selected, [this.head], context) as [Value];
    const { logitScale, logitSoftCap } = this.config;
    const sized = logitScale === 1 ? logits : scaled(tape, logits, logitScale);
    return logitSoftCap === 0 ? sized : softCapped(tape, sized, logitSoftCap);
  }
}

/** Ones for norms without a weight of heads of any layer. */
function onesFor(backend: Backend, { layers }: DecoderConfig): Tensor {
  const shape = [Math.max(...layers.map(({ headWidth }) => headWidth))];
  const ones = viewOf(
    backend.allocate(tensorBytes(shape, backend.floatType), "weights"),
    shape,
    backend.floatType,
  );
  backend.fill({ y: ones, value: 1 });
  return ones;
}

/** x[start, end) += scale a[ids] b^T, in inference. */
function addTableRows(
  tape: Tape,
  ids: Tensor,
  x: Value,
  start: number,
  end: number,
  { a, b, scale }: TableFactors,
): void {
  invariant(!tape.recording, "adapters of single rows serve generation, not training");
  tape.record({
    name: "addTableRows",
    inputs: [],
    outputs: [],
    forward() {
      const { backend } = tape;
      const u = tape.allocateTensor([end - start, a.tensor.shape[1]!], "workspace");
      const part = rows(x.data, start, end);
      backend.embedding({ ids: rows(ids, start, end), table: a.tensor, y: u });
      backend.scaleInPlace({ y: u, factor: scale });
      backend.linear(u, [{ weight: b.tensor, residual: part, y: part }]);
      backend.free(u.buffer);
    },
  });
}

/** A tied head reads the embedding table; when the table trains, both uses add to its gradient. */
function tiedHead(table: Parameter): LinearWeight {
  return table.grad ? { parameter: table } : { frozen: table.tensor };
}
