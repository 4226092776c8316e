// A base model's weights with another vocabulary: rows beyond the base's are the mean of its own, as transformers'
// resize_token_embeddings begins them (it adds noise a thousandfold smaller than any weight), and rows beyond the new
// size are left out. For adapters and runs that add tokens.

import { decodeToF32, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { embeddingName, headName } from "./decoder-weights.ts";
import type { WeightSource } from "./load-model.ts";

const tables = new Set([`${embeddingName}.weight`, `${headName}.weight`]);
const pieceRows = 4096;

/**
 * The source with `vocabularySize` rows in those of embedding and head that have the `configured` ones; other weights
 * as they are, so that a table that belies its config.json is found by whoever loads it.
 */
export function resizedSource<T extends WeightSource>(
  source: T,
  configured: number,
  vocabularySize: number,
): T {
  if (vocabularySize === configured) return source;
  const means = new Map<string, Promise<Uint8Array>>();
  const stored = (name: string) => {
    const found = tables.has(name) ? source.find(name) : undefined;
    return found && found.shape.length === 2 && found.shape[0] === configured ? found : undefined;
  };
  return {
    ...source,
    find(name) {
      const found = stored(name);
      return found ? { ...found, shape: [vocabularySize, found.shape[1]!] } : source.find(name);
    },
    async read(name, offset, length) {
      const found = stored(name);
      if (!found) return source.read(name, offset, length);
      const rowBytes = found.shape[1]! * dtypeBytes[found.dtype];
      const end = found.shape[0]! * rowBytes;
      const kept = Math.max(0, Math.min(length, end - offset));
      const bytes = new Uint8Array(length);
      if (kept > 0) bytes.set(await source.read(name, offset, kept));
      if (kept === length) return bytes;
      let mean = means.get(name);
      if (!mean) {
        mean = meanRow(source, name, found);
        means.set(name, mean);
      }
      const row = await mean;
      for (let i = kept; i < length; i++) bytes[i] = row[(offset + i) % rowBytes]!;
      return bytes;
    },
  };
}

async function meanRow(
  source: WeightSource,
  name: string,
  { dtype, shape }: NonNullable<ReturnType<WeightSource["find"]>>,
): Promise<Uint8Array> {
  const [rows, width] = shape as [number, number];
  const rowBytes = width * dtypeBytes[dtype];
  const sums = new Float64Array(width);
  for (let start = 0; start < rows; start += pieceRows) {
    const count = Math.min(pieceRows, rows - start);
    const values = decodeToF32(await source.read(name, start * rowBytes, count * rowBytes), dtype);
    for (let i = 0; i < values.length; i++) sums[i % width]! += values[i]!;
  }
  return encodeFrom(
    Float32Array.from(sums, (sum) => sum / rows),
    dtype,
  );
}
