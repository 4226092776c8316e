// Writes safetensors files, one tensor at a time and atomically. The bytes equal those of the reference
// implementation for the same tensors: sorted by dtype (widest first), then name; header padded with spaces so that
// the data starts at a multiple of 8. The byte layout is drawn in safetensors.ts.

import { elementCount } from "../tensor/tensor.ts";
import { BugError, invariant } from "../util/errors.ts";
import { writeAtomically } from "./atomic-file.ts";
import { type SafetensorsDType, safetensorsDTypeBytes } from "./safetensors.ts";

export interface TensorSpec {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
}

/** A tensor to write. `data` is called when its turn comes, so that one tensor is in memory at a time. */
export interface TensorToWrite extends TensorSpec {
  data(): Uint8Array | Promise<Uint8Array> | AsyncIterable<Uint8Array>;
}

/** Little-endian bytes of the whole tensor. */
export function tensorBytesOf(spec: TensorSpec): number {
  return elementCount(spec.shape) * safetensorsDTypeBytes[spec.dtype];
}

/** What torch.load and transformers expect to find. */
export const DEFAULT_METADATA = { format: "pt" };

/** Writes the file. UserError when the disk is full or the place cannot be written; the old file then stays. */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>> = DEFAULT_METADATA,
): Promise<void> {
  const sorted = inFileOrder(tensors);
  await writeAtomically(path, async (append) => {
    await append(headerOf(sorted, metadata));
    for (const tensor of sorted) {
      let written = 0;
      for await (const piece of pieces(await tensor.data())) {
        written += piece.byteLength;
        await append(piece);
      }
      if (written !== tensorBytesOf(tensor)) {
        throw new BugError(
          `${tensor.name}: wrote ${written} bytes, its shape needs ${tensorBytesOf(tensor)}`,
        );
      }
    }
  });
}

async function* pieces(data: Uint8Array | AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  if (data instanceof Uint8Array) yield data;
  else yield* data;
}

/** The order in which the tensors' bytes lie in the file. */
export function inFileOrder<T extends TensorSpec>(tensors: readonly T[]): T[] {
  const rank = Object.keys(safetensorsDTypeBytes);
  return [...tensors].sort(
    (a, b) =>
      rank.indexOf(b.dtype) - rank.indexOf(a.dtype) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  );
}

/** The 8-byte length and the padded header JSON, for tensors already in file order. */
export function headerOf(
  tensors: readonly TensorSpec[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const header = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) header.set("__metadata__", metadata);
  let offset = 0;
  for (const tensor of tensors) {
    invariant(!header.has(tensor.name), `tensor ${tensor.name} is written twice`);
    const end = offset + tensorBytesOf(tensor);
    header.set(tensor.name, { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [offset, end] });
    offset = end;
  }
  // Not JSON.stringify of an object: it would move names that look like integers to the front.
  const fields = [...header].map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const length = Math.ceil(json.byteLength / 8) * 8;
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, 8);
  return bytes;
}
