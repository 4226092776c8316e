// Cosines and sines of the rotary position embedding on the device, one row a position. A row belongs to a token by its
// position and by the length of its own text, so that what shares a pass with a text never changes it: with "dynamic"
// and "longrope" scaling the frequencies depend on that length. The frequencies are rope-frequencies.ts's, the
// rotation is a kernel.

import type { RopeTables } from "../autograd/ops/attention.ts";
import type { Backend, Tensor } from "../backend/backend.ts";
import { encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import {
  attentionFactorOf,
  inverseFrequencies,
  lengthOfOneTable,
  type RopeConfig,
  rotaryPairs,
} from "./rope-frequencies.ts";

/** Consecutive tokens of one text. */
export interface TextSpan {
  /** Position of the first. */
  readonly start: number;
  readonly count: number;
  /** Tokens of the whole text, as far as it is known. */
  readonly length: number;
}

export interface PlacedTokens {
  /** i32 [T]: the tables' row of each token. */
  readonly rows: Int32Array;
  /** One for each RoPE. Valid until the next call of place(). */
  readonly tables: readonly RopeTables[];
}

/** A rotary embedding and the width of the heads that it turns. */
export interface TurnedHeads {
  readonly rope: RopeConfig;
  readonly headWidth: number;
}

/** Keeps the device's tables, of every RoPE that a model has, long enough for the passes that come. */
export class RopeCache {
  private readonly each: readonly OneRope[];
  /** Texts up to this many tokens have one table: a token's row is its position, whatever follows it. */
  readonly oneTable: number;

  constructor(backend: Backend, ropes: readonly TurnedHeads[]) {
    this.each = ropes.map(({ rope, headWidth }) => new OneRope(backend, rope, headWidth));
    this.oneTable = Math.min(...ropes.map(({ rope }) => lengthOfOneTable(rope)));
  }

  /** The tables for a pass over these spans, end to end. */
  place(spans: readonly TextSpan[]): PlacedTokens {
    const tokens = spans.reduce((sum, span) => sum + span.count, 0);
    const rows = new Int32Array(tokens);
    if (spans.some((span) => span.length > this.oneTable)) {
      for (let t = 0; t < tokens; t++) rows[t] = t;
      return { rows, tables: this.each.map((rope) => rope.ownTables(spans, tokens)) };
    }
    let t = 0;
    let most = 1;
    for (const { start, count } of spans) {
      for (let i = 0; i < count; i++) rows[t++] = start + i;
      most = Math.max(most, start + count);
    }
    return { rows, tables: this.each.map((rope) => rope.upTo(most)) };
  }

  free(): void {
    for (const rope of this.each) rope.free();
  }
}

class OneRope {
  /** Serves every text that is no longer than one table is for; grows. */
  private shared: RopeTables | undefined;
  private positions = 0;
  /** Of a pass with a longer text: one row a token. */
  private own: RopeTables | undefined;
  private readonly pairs: number;
  private readonly oneTable: number;

  constructor(
    private readonly backend: Backend,
    private readonly config: RopeConfig,
    private readonly headWidth: number,
  ) {
    this.pairs = rotaryPairs(config, headWidth);
    this.oneTable = lengthOfOneTable(config);
  }

  upTo(positions: number): RopeTables {
    if (this.shared && positions <= this.positions) return this.shared;
    release(this.backend, this.shared);
    // Grow in steps so that slightly longer passes do not rebuild.
    this.positions = Math.min(Math.ceil(positions / 256) * 256, this.oneTable);
    const span = { start: 0, count: this.positions, length: 1 };
    this.shared = this.tablesOf([span], this.positions);
    return this.shared;
  }

  ownTables(spans: readonly TextSpan[], tokens: number): RopeTables {
    release(this.backend, this.own);
    this.own = this.tablesOf(spans, tokens);
    return this.own;
  }

  private tablesOf(spans: readonly TextSpan[], rows: number): RopeTables {
    const { config } = this;
    const keys = this.valuesOf(spans, rows, () => 1);
    const tables = { cos: this.upload(keys.cos, rows), sin: this.upload(keys.sin, rows) };
    const { queryScale } = config;
    if (!queryScale || spans.every(({ start, count }) => start + count <= queryScale.originalMaxPositions))
      return tables;
    const { beta, originalMaxPositions } = queryScale;
    const scaled = (position: number) =>
      Math.fround(1 + beta * Math.fround(Math.log(1 + Math.floor(position / originalMaxPositions))));
    const queries = this.valuesOf(spans, rows, scaled);
    return {
      ...tables,
      queries: { cos: this.upload(queries.cos, rows), sin: this.upload(queries.sin, rows) },
    };
  }

  private valuesOf(spans: readonly TextSpan[], rows: number, factorAt: (position: number) => number) {
    const { pairs } = this;
    const scale = Math.fround(attentionFactorOf(this.config));
    const cos = new Float32Array(rows * pairs);
    const sin = new Float32Array(rows * pairs);
    let at = 0;
    for (const { start, count, length } of this.backend.holdsNothing ? [] : spans) {
      const frequencies = inverseFrequencies(this.config, this.headWidth, length);
      for (let p = start; p < start + count; p++) {
        const factor = factorAt(p);
        for (let i = 0; i < pairs; i++, at++) {
          const angle = Math.fround(p * frequencies[i]!);
          cos[at] = Math.fround(Math.fround(Math.cos(angle)) * scale) * factor;
          sin[at] = Math.fround(Math.fround(Math.sin(angle)) * scale) * factor;
        }
      }
    }
    return { cos, sin };
  }

  private upload(values: Float32Array, rows: number): Tensor {
    const dtype = this.backend.floatType;
    const bytes = encodeFrom(values, dtype);
    const buffer = this.backend.allocate(Math.max(4, bytes.byteLength), "workspace");
    this.backend.write(buffer, bytes);
    return viewOf(buffer, [rows, this.pairs], dtype);
  }

  free(): void {
    release(this.backend, this.shared);
    release(this.backend, this.own);
    this.shared = undefined;
    this.own = undefined;
  }
}

function release(backend: Backend, tables: RopeTables | undefined): void {
  if (!tables) return;
  backend.free(tables.cos.buffer);
  backend.free(tables.sin.buffer);
  release(backend, tables.queries);
}
