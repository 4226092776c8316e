// llama.cpp's importance matrices: of each matrix, sums of squares of what its columns are multiplied with, and how
// many rows made them. Written as GGUF, the form since 2025; read in that and in the older one.
//
//   GGUF:  general.type = "imatrix", imatrix.datasets, .chunk_count, .chunk_size;
//          tensors NAME.in_sum2 [experts, in] and NAME.counts [experts, 1], f32
//   older: count i32, then for each: length i32, name, calls i32, numbers i32, f32 each (mean square times calls)
//
// Not here: how they are measured (publish/importance.ts). Formats: llama.cpp, tools/imatrix/imatrix.cpp.

import { decodeToF32, encodeFrom } from "../tensor/dtype.ts";
import { UserError } from "../util/errors.ts";
import type { ByteSource } from "./byte-source.ts";
import { openGguf } from "./gguf.ts";
import { type GgufTensorToWrite, writeGguf } from "./gguf-writer.ts";

export interface ImportanceEntry {
  /** Of the tensor in GGUF, with ".weight". */
  readonly name: string;
  /** [experts, in]. */
  readonly sums: Float32Array;
  /** One an expert. */
  readonly counts: Float64Array;
}

/** Writes a file that llama.cpp's quantize takes. `chunkSize` is the tokens of a text at most. */
export async function writeImatrix(
  path: string,
  entries: readonly ImportanceEntry[],
  about: { readonly datasets: readonly string[]; readonly chunks: number; readonly chunkSize: number },
): Promise<void> {
  const sorted = [...entries].sort((a, b) => (a.name < b.name ? -1 : 1));
  const tensors = sorted.flatMap(({ name, sums, counts }): GgufTensorToWrite[] => [
    {
      ...{ name: `${name}.in_sum2`, type: "f32", shape: [counts.length, sums.length / counts.length] },
      data: () => encodeFrom(sums, "f32"),
    },
    {
      ...{ name: `${name}.counts`, type: "f32", shape: [counts.length, 1] },
      data: () => encodeFrom(counts, "f32"),
    },
  ]);
  const { datasets, chunks, chunkSize } = about;
  await writeGguf(
    path,
    new Map([
      ["general.type", { type: "string", value: "imatrix" }],
      ["imatrix.datasets", { type: "array", of: "string", value: datasets }],
      ["imatrix.chunk_count", { type: "u32", value: chunks }],
      ["imatrix.chunk_size", { type: "u32", value: chunkSize }],
    ]),
    tensors,
  );
}

/** Whether a file is an importance matrix in either form, by its first bytes and its size. */
export async function isImatrix(source: ByteSource): Promise<boolean> {
  if (source.size < 16) return false;
  const view = new DataView((await source.read(0, 8)).buffer);
  if (view.getUint32(0, true) === 0x46554747) return true;
  // A text file's first bytes are larger numbers than any count of tensors and any length of a name.
  const [count, length] = [view.getInt32(0, true), view.getInt32(4, true)];
  return count > 0 && count < 1 << 20 && length > 0 && length < 1 << 10;
}

/** Mean squares by name; ones where nothing was seen. UserError for what is no importance matrix. */
export async function readImatrix(source: ByteSource): Promise<Map<string, Float32Array>> {
  const magic = new DataView((await source.read(0, Math.min(4, source.size))).buffer);
  const isGguf = source.size >= 4 && magic.getUint32(0, true) === 0x46554747;
  const found = isGguf ? await readNew(source) : await readOld(source);
  for (const [name, values] of found) {
    if (!values.every((value) => Number.isFinite(value) && value >= 0)) {
      throw new UserError(`${source.name}: the importance of ${name} holds numbers below 0 or not finite`);
    }
  }
  return found;
}

async function readNew(source: ByteSource): Promise<Map<string, Float32Array>> {
  const file = await openGguf(source);
  if (file.metadata.get("general.type")?.value !== "imatrix") {
    throw new UserError(
      `${source.name}: a GGUF file of type ${String(file.metadata.get("general.type")?.value)}, not an importance matrix`,
    );
  }
  const found = new Map<string, Float32Array>();
  for (const [tensor, { type, shape }] of file.tensors) {
    if (!tensor.endsWith(".in_sum2")) continue;
    const name = tensor.slice(0, -".in_sum2".length);
    const counts = file.tensors.get(`${name}.counts`);
    const experts = shape.length > 1 ? shape.slice(0, -1).reduce((a, b) => a * b, 1) : 1;
    const ofCounts = counts?.shape.reduce((a, b) => a * b, 1);
    if (type !== "f32" || counts?.type !== "f32" || (ofCounts !== experts && ofCounts !== 1)) {
      throw new UserError(`${source.name}: sums and counts of ${name} do not go together`);
    }
    const sums = decodeToF32(await file.readTensor(tensor), "f32");
    const each = decodeToF32(await file.readTensor(`${name}.counts`), "f32");
    const width = sums.length / experts;
    found.set(
      name,
      sums.map((sum, i) => {
        const count = each.length === 1 ? each[0]! : each[Math.floor(i / width)]!;
        return count > 0 ? sum / count : 1;
      }),
    );
  }
  return found;
}

async function readOld(source: ByteSource): Promise<Map<string, Float32Array>> {
  const fail = (): never => {
    throw new UserError(
      `${source.name}: not an importance matrix of llama.cpp: expected a GGUF file of type imatrix, or the older form (.dat)`,
    );
  };
  let at = 0;
  const take = async (length: number): Promise<Uint8Array<ArrayBuffer>> => {
    if (length < 0 || length > source.size - at) fail();
    const bytes = await source.read(at, length);
    at += length;
    return bytes;
  };
  const integer = async () => new DataView((await take(4)).buffer).getInt32(0, true);
  const count = await integer();
  // An entry takes 12 bytes at least.
  if (count < 1 || count * 12 > source.size) fail();
  const found = new Map<string, Float32Array>();
  for (let i = 0; i < count; i++) {
    const name = new TextDecoder().decode(await take(await integer()));
    const calls = await integer();
    const numbers = await integer();
    if (numbers < 1 || numbers * 4 > source.size - at) fail();
    const values = decodeToF32(await take(4 * numbers), "f32");
    found.set(name, calls > 0 ? values.map((value) => value / calls) : values);
  }
  return found;
}
