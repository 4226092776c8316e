// Rotary position embedding and causal attention over packed sequences, forward and backward.

import type { Segments, Tensor } from "../../backend/backend.ts";
import { invariant } from "../../util/errors.ts";
import type { Parameter, Tape, Value } from "../tape.ts";
import { gradTarget } from "./grad-target.ts";

export interface RopeTables {
  readonly cos: Tensor; // [P, D/2]
  readonly sin: Tensor;
  /** For queries, where they are turned otherwise than keys. */
  readonly queries?: RopeTables;
}

/** Rotates x [T, heads * D] in its own memory, which the result takes over: x must have no other reader. */
export function rope(tape: Tape, x: Value, headWidth: number, positions: Tensor, tables: RopeTables): Value {
  const y = tape.value(x.shape, x.needsGrad);
  const shape = [x.shape[0]!, x.shape[1]! / headWidth, headWidth];
  tape.record({
    name: "rope",
    inputs: [x],
    outputs: [],
    forward() {
      invariant(x.readers === 1 && x.holders === 0 && x.owned, "rope in place on a value that others read");
      const memory = tape.takeData(x);
      const view = { ...memory, shape };
      tape.backend.rope({ x: view, positions, cos: tables.cos, sin: tables.sin, direction: 1, y: view });
      tape.giveData(y, memory);
    },
    backward: x.needsGrad
      ? () => {
          if (!y.grad) return;
          const view = { ...y.grad, shape };
          tape.backend.rope({ x: view, positions, cos: tables.cos, sin: tables.sin, direction: -1, y: view });
          tape.passGrad(y, x);
        }
      : undefined,
  });
  return y;
}

export interface AttentionSpec {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headWidth: number;
  readonly segments: Segments;
  /** 0: every earlier key of the segment; else only the last `window`. */
  readonly window: number;
  /** Multiplies the scores; 1 / sqrt(D) unless the architecture says otherwise. */
  readonly scale: number;
  /** Above 0, scores are bent to within it: softcap * tanh(score / softcap). 0 by default. */
  readonly softcap?: number;
  /** A score more for each head, [heads], that takes weight and gives nothing. */
  readonly sinks?: Parameter | undefined;
}

/** Where keys and values lie in a cache; see the contract's cachedAttention. */
export interface CacheBlocks {
  readonly places: Tensor;
  readonly tokens: number;
}

/** q [Tq, H*D], k and v as a cache holds them -> [Tq, H*D]. No gradient. */
export function cachedAttention(
  tape: Tape,
  [q, k, v]: readonly [Value, Value, Value],
  spec: AttentionSpec,
  cache: { readonly blocks: CacheBlocks },
): Value {
  const { heads, kvHeads, headWidth, segments, window, scale, softcap = 0, sinks } = spec;
  invariant(!tape.recording, "a key/value cache serves generation, not training");
  const out = tape.value(q.shape, false);
  const lse = tape.value([q.shape[0]!, heads], false);
  const asQueries = (t: Tensor): Tensor => ({ ...t, shape: [t.shape[0]!, heads, headWidth] });
  tape.record({
    name: "cachedAttention",
    inputs: [q, k, v],
    outputs: [out, lse],
    forward() {
      const { places: blocks, tokens: blockTokens } = cache.blocks;
      tape.backend.cachedAttention({
        ...{ q: asQueries(q.data), k: k.data, v: v.data, blocks, blockTokens, kvHeads },
        ...{ segments, scale, window, softcap, sinks: sinks?.tensor },
        ...{ out: asQueries(out.data), lse: lse.data },
      });
    },
  });
  return out;
}

/** q [Tq, H*D], k and v [Tk, G*D] -> [Tq, H*D]. */
export function attention(tape: Tape, q: Value, k: Value, v: Value, spec: AttentionSpec): Value {
  const { heads, kvHeads, headWidth, segments, window, scale, softcap = 0, sinks } = spec;
  const { backend } = tape;
  const needsGrad = q.needsGrad || k.needsGrad || v.needsGrad || sinks?.grad !== undefined;
  const out = tape.value(q.shape, needsGrad);
  const lse = tape.value([q.shape[0]!, heads], false);
  const asQueries = (t: Tensor): Tensor => ({ ...t, shape: [t.shape[0]!, heads, headWidth] });
  const asKeys = (t: Tensor): Tensor => ({ ...t, shape: [t.shape[0]!, kvHeads, headWidth] });
  const both = () => ({
    q: asQueries(q.data),
    k: asKeys(k.data),
    v: asKeys(v.data),
    ...{ segments, scale, window, softcap, sinks: sinks?.tensor },
    out: asQueries(out.data),
    lse: lse.data,
  });
  tape.record({
    name: "attention",
    inputs: [q, k, v],
    outputs: [out, lse],
    saves: [q, k, v, out, lse],
    forward() {
      backend.attention(both());
    },
    backward: needsGrad
      ? () => {
          if (!out.grad) return;
          const grads = [q, k, v].map((value) => gradTarget(tape, value));
          const [dq, dk, dv] = grads.map((g) => g.tensor) as [Tensor, Tensor, Tensor];
          backend.attentionBackward({
            ...both(),
            dOut: asQueries(out.grad),
            dq: asQueries(dq),
            dk: asKeys(dk),
            dv: asKeys(dv),
            dSinks: sinks?.grad,
          });
          for (const grad of grads) grad.finish();
        }
      : undefined,
  });
  return out;
}
