// The layers a model is made of, as plain data: where each weight lives and what is attached to it. Operations on
// them are in autograd/ops; models/ arranges them; lora.ts attaches adapters, apply.ts runs layers with them.

import type { GroupedSpec, Routing } from "../autograd/ops/experts.ts";
import type { LinearSpec, LinearWeight } from "../autograd/ops/linear.ts";
import type { Parameter, Value } from "../autograd/tape.ts";
import type { Tensor } from "../backend/backend.ts";
import type { Attachment } from "./adapter-kinds/index.ts";

/** A low-rank adapter attached to a linear layer. */
export interface AttachedAdapter {
  readonly a: Parameter; // [R, in]
  readonly b: Parameter; // [out, R]
  readonly scale: number;
  readonly dropout: number;
  /** Distinguishes this layer's dropout masks from all others'. */
  readonly index: number;
  /** What its kind has beside the factors, by KindTensor.name. */
  readonly tensors: ReadonlyMap<string, Parameter>;
  /** What the factors began as, and the layer's product goes without; absent where they began as nothing. */
  readonly anchor?: Anchor;
  /** Absent: its kind does nothing beside the factors' product. */
  readonly attachment?: Attachment;
}

/** What PiSSA takes off a weight while its principal part trains (pissa.ts): A0 [R, in], and -scale B0 [out, R]. */
export interface Anchor {
  readonly a: Parameter;
  readonly b: Parameter;
}

/** A linear layer under its checkpoint name without ".weight", e.g. model.layers.0.self_attn.q_proj. */
export interface Linear {
  readonly name: string;
  readonly inputs: number;
  readonly outputs: number;
  weight: LinearWeight;
  bias?: Parameter;
  adapter?: AttachedAdapter;
}

/** A linear layer of each of a mixture's experts under their common name, e.g. model.layers.0.mlp.experts.down_proj. */
export interface ExpertLayer {
  readonly name: string;
  readonly experts: number;
  /** Of one expert. */
  readonly inputs: number;
  readonly outputs: number;
  weight: GroupedSpec["weight"]; // [E, out, in]
  bias?: Parameter; // [E, out]
  /** a [E * R, in], b [E, out, R]. */
  adapter?: AttachedAdapter;
}

/** What adapters attach to. */
export type Adaptable = Linear | ExpertLayer;

export function isExperts(layer: Adaptable): layer is ExpertLayer {
  return "experts" in layer;
}

/** Adapters over one base for a stretch of a pass's rows: several requests, each with its own, in one batch. */
export interface AdapterRows {
  /** Rows [start, end) of the pass. */
  readonly start: number;
  readonly end: number;
  /** By layer name; layers not named stay bare. */
  readonly layers: ReadonlyMap<string, Factors>;
  /** Whole weights of their own, by the base's names for them. */
  readonly replaced?: ReadonlyMap<string, Parameter>;
  readonly embedding?: TableFactors;
}

/** Of experts as ExpertLayer.adapter's. */
export type Factors = Pick<AttachedAdapter, "a" | "b" | "scale"> & {
  /** By output, where the adapter's kind scales the layer's product. */
  readonly columns?: Tensor;
};

/** What a low-rank adapter adds to an embedding table: scale * a b^T, with a [V, R] and b [C, R]. */
export type TableFactors = Factors;

/** The rows of a pass that have something of their own. */
export function rowsWith<T, K extends string>(
  groups: readonly AdapterRows[] | undefined,
  key: K,
  find: (group: AdapterRows) => T | undefined,
): ({ readonly start: number; readonly end: number } & Record<K, T>)[] {
  return (groups ?? []).flatMap((group) => {
    const found = find(group);
    const { start, end } = group;
    return found === undefined
      ? []
      : [{ start, end, [key]: found } as { start: number; end: number } & Record<K, T>];
  });
}

/** Hears what layers are multiplied with, when that is recorded. */
export interface LinearObserver {
  /** Layers that share x [T, in]. */
  linears(x: Value, layers: readonly Linear[]): void;
  /** x has a row a token (`byToken`), or one for each of a token's experts, by expert. */
  experts(x: Value, layer: ExpertLayer, routing: Routing, byToken: boolean): void;
}

/** What varies from one forward pass to the next. */
export interface PassContext {
  /** Training: dropout acts. */
  readonly training: boolean;
  readonly seed: number;
  /** Counts micro-batches over the whole run, so that every pass has masks of its own. */
  readonly pass: number;
  /** Inference only: besides what is attached to a layer, adapters of some rows. */
  readonly adapterRows?: readonly AdapterRows[];
  readonly observe?: LinearObserver;
}

/** How many dropout layers a model may have: streams of one pass never meet the next pass's. */
const streamsPerPass = 4096;

/** The operation a layer stands for in this pass. */
export function specOf(layer: Linear, context: PassContext, residual?: Value): LinearSpec {
  const { adapter } = layer;
  const rowAdapters = context.adapterRows?.flatMap(({ start, end, layers }) => {
    const found = layers.get(layer.name);
    return found ? [{ start, end, ...found }] : [];
  });
  const rowWeights = context.adapterRows?.flatMap(({ start, end, replaced }) => {
    const [weight, bias] = [replaced?.get(`${layer.name}.weight`), replaced?.get(`${layer.name}.bias`)];
    return weight || bias ? [{ start, end, weight, bias }] : [];
  });
  const rows = { rowAdapters, rowWeights };
  if (!adapter) return { weight: layer.weight, bias: layer.bias, residual, ...rows };
  const dropout =
    context.training && adapter.dropout > 0
      ? {
          p: adapter.dropout,
          seed: context.seed,
          stream: (context.pass * streamsPerPass + adapter.index) % 2 ** 32,
        }
      : undefined;
  return {
    weight: layer.weight,
    bias: layer.bias,
    residual,
    ...rows,
    adapter: { a: adapter.a, b: adapter.b, scale: adapter.scale, dropout },
  };
}
