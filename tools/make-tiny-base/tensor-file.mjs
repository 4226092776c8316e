// Just enough of safetensors for the recipe: write a file, and store one in bfloat16.
// A file is: header length (8 bytes, little-endian), header (JSON, padded with spaces to 8), tensor bytes.
// Reads only files that lowrank itself has just written; the reader that distrusts its input is
// src/formats/safetensors.ts.

import { readFileSync, writeFileSync } from "node:fs";

/** Writes tensors ({name, dtype, shape, bytes}) in the order given. */
export function writeSafetensors(path, tensors) {
  const header = { __metadata__: { format: "pt" } };
  let offset = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, 0x20);
  head.writeBigUInt64LE(BigInt(head.length - 8));
  json.copy(head, 8);
  writeFileSync(path, Buffer.concat([head, ...tensors.map(({ bytes }) => bytes)]));
}

/** All tensors of a file, in file order. */
export function readSafetensors(path) {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE());
  const { __metadata__: _, ...entries } = JSON.parse(file.subarray(8, start).toString("utf8"));
  return Object.entries(entries)
    .map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => ({
        name,
        dtype,
        shape,
        from,
        bytes: Uint8Array.from(file.subarray(start + from, start + to)),
      }),
    )
    .sort((a, b) => a.from - b.from);
}

/** Writes the tensors of `source` to `target` in bfloat16, rounding to nearest, ties to even. */
export function storeBfloat16(source, target) {
  const tensors = readSafetensors(source).map(({ name, dtype, shape, bytes }) => {
    if (dtype === "BF16") return { name, dtype, shape, bytes };
    if (dtype !== "F32") throw new Error(`${source}: ${name} is ${dtype}; expected F32 or BF16.`);
    const words = new Uint32Array(bytes.buffer);
    const halves = new Uint16Array(words.length);
    for (let i = 0; i < words.length; i++) {
      halves[i] = (words[i] + 0x7fff + ((words[i] >>> 16) & 1)) >>> 16;
    }
    return { name, dtype: "BF16", shape, bytes: new Uint8Array(halves.buffer) };
  });
  writeSafetensors(target, tensors);
}
