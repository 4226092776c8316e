// The words in which products are asked for and chosen between; types alone, so that gpu.ts can name them. Not here: what is
// done with them (products.ts), who chooses (product-choices.ts).

import type { Dropout, PlainMatrix, QuantizedMatrix } from "../backend.ts";

/** C = A B^T (a layer's output), A B (its input's gradient), A^T B (its weight's gradient); A and B as they lie. */
export type Form = "forward" | "input" | "weight";

/** Rows by columns of C that a block makes. */
export type Tile = "128x256" | "128x128" | "64x64" | "64x32" | "32x128";

/** Rows on the device, bf16 or, in fp32, f32: `pitch` elements from one to the next. */
export interface Operand {
  readonly address: number;
  readonly pitch: number;
}

/** A pair of operands whose product adds to C. */
export interface Term {
  readonly a: Operand;
  readonly b: Operand | QuantizedMatrix;
  readonly k: number;
}

export interface Shape {
  readonly form: Form;
  readonly m: number;
  readonly n: number;
}

/** Where a product goes, and what is added to it. Addresses; 0: nothing. */
export interface Result {
  readonly c: number;
  readonly ldc: number;
  readonly accumulate?: boolean;
  readonly bias?: number;
  /** Rows of ldc. */
  readonly residual?: number;
  readonly dropout?: Dropout;
}

/** A product with a weight: forward y = a W^T, input dx = a W, `extra` added to it. */
export interface WeightProduct {
  readonly form: "forward" | "input";
  readonly rows: number;
  readonly a: Operand;
  readonly weight: PlainMatrix;
  readonly extra?: Term;
  readonly result: Result;
}

/** How a product with a weight is made: codes decoded within it ("fused") or expanded before it, by which tile. */
export interface Choice {
  readonly fused: boolean;
  readonly tile: Tile;
}

/** Who says how products are made. */
export interface Chooser {
  /** Bytes of a weight that are expanded at a time. */
  readonly windowBytes: number;
  tileOf(shape: Shape, terms: readonly Term[]): Tile;
  of(product: WeightProduct): Choice;
}
