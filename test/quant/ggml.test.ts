// ggml's block types against its own library: the bytes of its quantisers and the numbers that gguf-py decodes of them
// (test/golden/gguf-blocks.json, made by tools/golden/gguf_blocks.py).

import { describe, expect, it } from "vitest";
import { type BlockTypeName, blockTypes, decodeGguf, encodeGguf } from "../../src/quant/ggml/index.ts";
import { type ByteArray, bytesOf, readGolden } from "../golden/load-golden.ts";
import { checksumOf, type QuantInput, quantInput } from "../golden/quant-golden.ts";

interface BlocksGolden {
  readonly seed: number;
  readonly row: number;
  readonly importanceStream: number;
  readonly cases: readonly (QuantInput & {
    readonly type: BlockTypeName;
    readonly weighed: boolean;
    readonly bytes: ByteArray;
    readonly decodedChecksum: number;
  })[];
}

const golden = readGolden<BlocksGolden>("gguf-blocks.json");
const { seed, row, importanceStream } = golden;
const importance = quantInput(seed, { kind: "positive", stream: importanceStream, count: row }).map((x, i) =>
  i % 37 === 0 ? 0 : x,
);

describe.each(Object.keys(blockTypes) as BlockTypeName[])("%s", (type) => {
  const cases = golden.cases.filter((each) => each.type === type);

  it.each(cases)("encodes $kind as ggml does (weighed: $weighed)", (each) => {
    const values = quantInput(golden.seed, each);
    const encoded = encodeGguf(values, type, golden.row, each.weighed ? importance : undefined);
    expect(Buffer.compare(encoded, bytesOf(each.bytes))).toBe(0);
  });

  it.each(cases)("decodes $kind as gguf-py does (weighed: $weighed)", (each) => {
    expect(checksumOf(decodeGguf(bytesOf(each.bytes), type))).toBe(each.decodedChecksum);
  });
});
