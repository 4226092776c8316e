// The registry of 4-bit quantisers: choices on the command line, the reading of files and the conformance suite come
// from it. Only nf4 and fp4 are formats of files; int4 is there to be compared with.

import type { CodebookQuantizer } from "./codebook.ts";
import { fp4 } from "./fp4.ts";
import { int4 } from "./int4.ts";
import { nf4 } from "./nf4.ts";

export const quantizers = { nf4, fp4, int4 } satisfies Record<string, CodebookQuantizer>;

export type QuantizerName = keyof typeof quantizers;
export const quantizerNames = Object.keys(quantizers) as QuantizerName[];

export function isQuantizer(name: unknown): name is QuantizerName {
  return typeof name === "string" && Object.hasOwn(quantizers, name);
}
