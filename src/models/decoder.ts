// The forward pass that the LLaMA family shares: embedding, blocks of attention and gated MLP around residuals,
// final norm, head. Recorded on a tape; backward comes from the ops. Sequences lie end to end, [T, C].

import { attention, type RopeTables, rope } from "../autograd/ops/attention.ts";
import { headLoss } from "../autograd/ops/head-loss.ts";
import { embedding, gatedActivation, gather, rmsNorm, scaled } from "../autograd/ops/layers.ts";
import { type LinearWeight, linear } from "../autograd/ops/linear.ts";
import { checkpoint, type Parameter, type Tape, Value } from "../autograd/tape.ts";
import type { Backend, Matrix, Segments, Tensor } from "../backend/backend.ts";
import { applyLinears } from "../nn/apply.ts";
import { type Linear, type PassContext, rowsWith, specOf, type TableFactors } from "../nn/module.ts";
import { RopeCache } from "../nn/rope-tables.ts";
import { rows } from "../tensor/tensor.ts";
import { BugError, invariant } from "../util/errors.ts";
import { type BlockPart, blockParts, type blockTable } from "./block-table.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { embeddingName, finalNormName, headName } from "./decoder-weights.ts";

/** Weights by checkpoint name: matrices frozen or trained, vectors and the embedding as parameters. */
export interface DecoderWeights {
  linear(name: string): LinearWeight;
  parameter(name: string): Parameter;
}

/** Parts that only some models have. */
type Sometimes = {
  [P in BlockPart]: (typeof blockTable)[P] extends { readonly present: unknown } ? P : never;
}[BlockPart];

type PartOf<P extends BlockPart> = (typeof blockTable)[P]["kind"] extends "linear" ? Linear : Parameter;

type BlockWeights = { [P in Exclude<BlockPart, Sometimes>]: PartOf<P> } & {
  [P in Sometimes]?: PartOf<P>;
};

type Block = BlockWeights & { readonly window: number };

const vectorParts = blockParts.flatMap(([part, { kind }]) => (kind === "vector" ? [part as VectorPart] : []));
type VectorPart = {
  [P in BlockPart]: (typeof blockTable)[P]["kind"] extends "vector" ? P : never;
}[BlockPart];

/** Token ids and where they stand. */
export interface TokenBatch {
  readonly ids: Tensor; // i32 [T]
  /** Each token's row of `tables`: what the decoder's ropeCache.place() says. */
  readonly rows: Tensor; // i32 [T]
  readonly tables: RopeTables;
  readonly segments: Segments;
}

/** Keys and values of earlier tokens, for generation; see generate/kv-cache.ts. */
export interface KeyValueStore {
  /** Stores this layer's new keys and values [T, G*D] and returns all that queries may attend to. */
  extend(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor };
}

const inference: PassContext = { training: false, seed: 0, pass: 0 };

export interface ForwardOptions {
  readonly context: PassContext;
  /** Keep only each block's input and run its forward pass again in the backward pass. */
  readonly checkpointing?: boolean;
  readonly cache?: KeyValueStore;
}

export class Decoder {
  embeddingTable: Parameter;
  /** A low-rank adapter of the embedding table. */
  embeddingAdapter: TableFactors | undefined;
  readonly head: Linear;
  private finalNorm: Parameter;
  readonly blocks: readonly Block[];
  readonly ropeCache: RopeCache;

  constructor(
    readonly backend: Backend,
    readonly config: DecoderConfig,
    weights: DecoderWeights,
  ) {
    this.embeddingTable = weights.parameter(`${embeddingName}.weight`);
    this.finalNorm = weights.parameter(`${finalNormName}.weight`);
    this.head = {
      name: headName,
      inputs: config.width,
      outputs: config.vocabularySize,
      weight: config.tied ? tiedHead(this.embeddingTable) : weights.linear(`${headName}.weight`),
    };
    this.blocks = Array.from({ length: config.layers }, (_, i) => makeBlock(config, weights, i));
    this.ropeCache = new RopeCache(backend, config.rope, config.headWidth);
  }

  /** Every linear layer of the blocks, in order. */
  get linears(): Linear[] {
    return this.blocks.flatMap((b) => [b.q, b.k, b.v, b.o, b.gate, b.up, b.down]);
  }

  /** The weight of a name in the checkpoint; a tied head's is the embedding's. */
  weight(name: string): Matrix {
    if (name === `${embeddingName}.weight`) return this.embeddingTable.tensor;
    if (name === `${finalNormName}.weight`) return this.finalNorm.tensor;
    for (const { name: layer, weight, bias } of [...this.linears, this.head]) {
      if (name === `${layer}.weight`) return "frozen" in weight ? weight.frozen : weight.parameter.tensor;
      if (name === `${layer}.bias` && bias) return bias.tensor;
    }
    for (const { attentionNorm, qNorm, kNorm, mlpNorm } of this.blocks) {
      for (const norm of [attentionNorm, qNorm, kNorm, mlpNorm]) if (norm?.name === name) return norm.tensor;
    }
    throw new BugError(`the decoder has no weight ${name}`);
  }

  /** Puts a parameter in the place of a weight, by the checkpoint's name for it; what it returns undoes that. */
  replace(name: string, parameter: Parameter): () => void {
    if (name === `${embeddingName}.weight`) {
      const before = this.embeddingTable;
      this.embeddingTable = parameter;
      return () => void (this.embeddingTable = before);
    }
    if (name === `${finalNormName}.weight`) {
      const before = this.finalNorm;
      this.finalNorm = parameter;
      return () => void (this.finalNorm = before);
    }
    const linear = [...this.linears, this.head].find((layer) => name.startsWith(`${layer.name}.`));
    if (linear) {
      const { weight, bias } = linear;
      if (name.endsWith(".bias")) linear.bias = parameter;
      else linear.weight = { parameter };
      return () => void Object.assign(linear, { weight, bias });
    }
    for (const block of this.blocks) {
      for (const key of vectorParts) {
        const before = block[key];
        if (before?.name !== name) continue;
        block[key] = parameter;
        return () => void (block[key] = before as Parameter);
      }
    }
    throw new BugError(`the decoder has no weight ${name}`);
  }

  /** Last hidden states after the final norm: [T, C]. */
  forward(tape: Tape, batch: TokenBatch, options: ForwardOptions): Value {
    let x = this.embed(tape, batch.ids, options.context);
    for (const [i, block] of this.blocks.entries()) {
      const run = (t: Tape, input: Value) => this.runBlock(t, input, block, i, batch, options);
      x = options.checkpointing ? checkpoint(tape, x, run) : run(tape, x);
    }
    return this.norm(tape, x, this.finalNorm, options.context);
  }

  private embed(tape: Tape, ids: Tensor, context: PassContext): Value {
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

  private norm(tape: Tape, x: Value, weight: Parameter, context: PassContext): Value {
    const own = rowsWith(context.adapterRows, "parameter", (group) => group.replaced?.get(weight.name));
    return rmsNorm(tape, x, weight, this.config.normEpsilon, own);
  }

  /** Losses [N] of the targets; see autograd/ops/head-loss.ts. */
  loss(
    tape: Tape,
    hidden: Value,
    spec: { rows: Tensor; targets: Tensor; gradScale: number; chunkBytes: number },
    context: PassContext = inference,
  ): Value {
    const { weight, adapter } = specOf(this.head, context);
    const columns = this.head.adapter?.attachment?.columns(tape);
    return headLoss(tape, hidden, { weight, adapter, columns, ...spec });
  }

  /**
   * Logits [n, V] of the hidden states [T, C] that `rows` (i32 [n]) names; of all when it is absent. `context` has
   * adapters by rows of the logits.
   */
  logits(tape: Tape, hidden: Value, rows?: Tensor, context: PassContext = inference): Value {
    const selected = rows ? gather(tape, hidden, rows) : hidden;
    return applyLinears(tape, selected, [this.head], context)[0]!;
  }

  private runBlock(
    tape: Tape,
    x: Value,
    block: Block,
    index: number,
    batch: TokenBatch,
    options: ForwardOptions,
  ): Value {
    const { config } = this;
    const { context } = options;
    const { headWidth } = config;

    const h = this.norm(tape, x, block.attentionNorm, context);
    let [q, k, v] = applyLinears(tape, h, [block.q, block.k, block.v], context) as [Value, Value, Value];
    if (block.qNorm) q = this.norm(tape, q, block.qNorm, context);
    if (block.kNorm) k = this.norm(tape, k, block.kNorm, context);
    q = rope(tape, q, headWidth, batch.rows, batch.tables);
    k = rope(tape, k, headWidth, batch.rows, batch.tables);
    if (options.cache) [k, v] = extendCache(tape, options.cache, index, k, v, batch.segments);
    const mixed = attention(tape, q, k, v, {
      heads: config.heads,
      kvHeads: config.kvHeads,
      headWidth,
      segments: batch.segments,
      window: block.window,
      scale: 1 / Math.sqrt(headWidth),
    });
    const [middle] = applyLinears(tape, mixed, [block.o], context, x) as [Value];

    const h2 = this.norm(tape, middle, block.mlpNorm, context);
    const [gate, up] = applyLinears(tape, h2, [block.gate, block.up], context) as [Value, Value];
    const activated = gatedActivation(tape, config.activation, gate, up);
    return applyLinears(tape, activated, [block.down], context, middle)[0]!;
  }
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

function makeBlock(config: DecoderConfig, weights: DecoderWeights, index: number): Block {
  const made = blockParts.map(([part, { path, kind, shape, bias, present }]) => {
    if (present && !present(config)) return [part, undefined];
    const name = `model.layers.${index}.${path}`;
    if (kind === "vector") return [part, weights.parameter(`${name}.weight`)];
    const [outputs, inputs] = shape(config) as [number, number];
    const own = bias?.(config) ? weights.parameter(`${name}.bias`) : undefined;
    const linear: Linear = { name, inputs, outputs, weight: weights.linear(`${name}.weight`), bias: own };
    return [part, linear];
  });
  return { window: config.windows[index]!, ...(Object.fromEntries(made) as BlockWeights) };
}

/** Puts new keys and values into the cache; attention then reads the cache's own memory. */
function extendCache(
  tape: Tape,
  cache: KeyValueStore,
  layer: number,
  k: Value,
  v: Value,
  segments: Segments,
): [Value, Value] {
  invariant(!tape.recording, "a key/value cache serves generation, not training");
  invariant(segments.count > 0, "cache without segments");
  // The cache owns this memory, not the tape.
  const outputs = [k, v].map((value) => new Value(value.shape, value.dtype, false, false)) as [Value, Value];
  tape.record({
    name: "extendCache",
    inputs: [k, v],
    outputs: [],
    forward() {
      const stored = cache.extend(layer, k.data, v.data);
      outputs[0].tensor = stored.k;
      outputs[1].tensor = stored.v;
    },
  });
  return outputs;
}
