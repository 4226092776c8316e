// Reads safetensors: a JSON header, then the tensors' raw bytes.
//
//   0        8            8 + H                                    size
//   | H: u64 | header JSON | tensor data, little-endian, row-major   |
//
//   header: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
//   data_offsets count from 8 + H; the tensors cover the data without holes or overlap.
//
// Files are hostile: every length is checked against the file before anything is allocated. One tensor is read at a
// time, whole or in chunks. The writer is safetensors-writer.ts; what the tensors mean is for model-folder.ts and
// peft.ts. Format: github.com/huggingface/safetensors.

import type { DType } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import type { ByteSource } from "./byte-source.ts";
import { isJsonObject, type JsonObject, parseJson } from "./json.ts";

/** The reference implementation refuses headers above 100 MB too. */
const HEADER_CAP_BYTES = 100_000_000;

/** Bytes an element; in the order by which the reference implementation sorts tensors when it writes. */
export const safetensorsDTypeBytes = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  F8_E8M0: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  C64: 8,
  F64: 8,
  I64: 8,
  U64: 8,
} as const;

export type SafetensorsDType = keyof typeof safetensorsDTypeBytes;

const ownDTypes: Partial<Record<SafetensorsDType, DType>> = {
  F64: "f64",
  F32: "f32",
  F16: "f16",
  BF16: "bf16",
  I32: "i32",
  U8: "u8",
};

const fileDTypes: Record<DType, SafetensorsDType> = {
  f64: "F64",
  f32: "F32",
  f16: "F16",
  bf16: "BF16",
  i32: "I32",
  u8: "U8",
};

/** Our dtype of a file's, or undefined where we compute with none such. */
export function fromSafetensorsDType(dtype: SafetensorsDType): DType | undefined {
  return ownDTypes[dtype];
}

export function toSafetensorsDType(dtype: DType): SafetensorsDType {
  return fileDTypes[dtype];
}

export interface TensorEntry {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly offset: number;
  readonly sizeBytes: number;
}

export interface SafetensorsFile {
  readonly source: ByteSource;
  /** In the order of their bytes in the file. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  /** The tensor's bytes in an ArrayBuffer of their own, so that any typed array can view them. */
  readTensor(name: string): Promise<Uint8Array<ArrayBuffer>>;
  /** Fills `into`, whose length is the tensor's sizeBytes. */
  readTensorInto(name: string, into: Uint8Array): Promise<void>;
  /** Bytes [begin, begin + length) of the tensor. */
  readRange(name: string, begin: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  /** The tensor's bytes in order, at most `chunkBytes` at a time. */
  readChunks(name: string, chunkBytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>>;
  close(): Promise<void>;
}

/** Reads and checks the header. UserError says what is wrong with the file. Closes the source when it throws. */
export async function openSafetensors(source: ByteSource): Promise<SafetensorsFile> {
  try {
    const { tensors, metadata } = await readHeader(source);
    return new OpenFile(source, tensors, metadata);
  } catch (error) {
    await source.close();
    throw error;
  }
}

class OpenFile implements SafetensorsFile {
  constructor(
    readonly source: ByteSource,
    readonly tensors: ReadonlyMap<string, TensorEntry>,
    readonly metadata: Readonly<Record<string, string>>,
  ) {}

  private entry(name: string): TensorEntry {
    const entry = this.tensors.get(name);
    if (!entry) throw new UserError(`${this.source.name}: there is no tensor "${name}" in this file.`);
    return entry;
  }

  async readTensor(name: string): Promise<Uint8Array<ArrayBuffer>> {
    const entry = this.entry(name);
    return this.source.read(entry.offset, entry.sizeBytes);
  }

  async readTensorInto(name: string, into: Uint8Array): Promise<void> {
    const entry = this.entry(name);
    if (into.byteLength !== entry.sizeBytes) {
      throw new UserError(
        `${this.source.name}: tensor "${name}" has ${entry.sizeBytes} bytes; ${into.byteLength} were expected.`,
      );
    }
    return this.source.readInto(entry.offset, into);
  }

  async readRange(name: string, begin: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const entry = this.entry(name);
    if (begin < 0 || length < 0 || begin + length > entry.sizeBytes) {
      throw new UserError(
        `${this.source.name}: tensor "${name}" has ${entry.sizeBytes} bytes; bytes ${begin} to ${begin + length} were asked for.`,
      );
    }
    return this.source.read(entry.offset + begin, length);
  }

  async *readChunks(name: string, chunkBytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const { offset, sizeBytes } = this.entry(name);
    for (let begin = 0; begin < sizeBytes; begin += chunkBytes) {
      yield await this.source.read(offset + begin, Math.min(chunkBytes, sizeBytes - begin));
    }
  }

  close(): Promise<void> {
    return this.source.close();
  }
}

interface Header {
  readonly tensors: Map<string, TensorEntry>;
  readonly metadata: Record<string, string>;
}

async function readHeader(source: ByteSource): Promise<Header> {
  const { name, size } = source;
  if (size < 8) {
    throw new UserError(
      `${name}: ${size} bytes is too short for a safetensors file; it is empty or incomplete.`,
    );
  }
  const lengthBytes = await source.read(0, 8);
  const length = Number(new DataView(lengthBytes.buffer).getBigUint64(0, true));
  if (length > HEADER_CAP_BYTES) {
    throw new UserError(
      `${name}: not a safetensors file: its first 8 bytes give a header of ${length} bytes (at most ${HEADER_CAP_BYTES} are allowed).${hintOf(lengthBytes)}`,
    );
  }
  if (8 + length > size) {
    throw new UserError(
      `${name}: the file is cut off: its header should have ${length} bytes and the file has only ${size}. Fetch it again.`,
    );
  }
  const headerBytes = await source.read(8, length);
  const header = parseJson(headerBytes, `${name}: the header`);
  if (!isJsonObject(header)) throw new UserError(`${name}: the header: expected a JSON object, {...}.`);
  refuseDuplicates(headerBytes, header, name);

  const entries: TensorEntry[] = [];
  let metadata: Record<string, string> = {};
  for (const [key, value] of Object.entries(header)) {
    if (key === "__metadata__") metadata = readMetadata(value, name);
    else entries.push(readEntry(key, value, 8 + length, name));
  }
  entries.sort((a, b) => a.offset - b.offset || a.sizeBytes - b.sizeBytes);
  checkCover(entries, 8 + length, source);
  return { tensors: new Map(entries.map((entry) => [entry.name, entry])), metadata };
}

/** Names the file's true kind where its first bytes tell. */
function hintOf(start: Uint8Array): string {
  const text = String.fromCharCode(...start);
  if (text.startsWith("GGUF")) return " It is a GGUF file.";
  if (text.startsWith("PK")) return " It looks like a PyTorch .bin/.pth file; convert it to safetensors.";
  if (text.startsWith("version "))
    return " It is a Git LFS pointer: run `git lfs pull` to get the real file.";
  if (text.startsWith("<")) return " It looks like a web page saved in place of the file.";
  return "";
}

function readMetadata(value: unknown, file: string): Record<string, string> {
  if (!isJsonObject(value)) throw new UserError(`${file}: __metadata__ is not an object of strings.`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== "string") throw new UserError(`${file}: __metadata__ "${key}" is not a string.`);
  }
  return value as Record<string, string>;
}

function readEntry(name: string, value: unknown, dataStart: number, file: string): TensorEntry {
  const where = `${file}: tensor "${shorten(name)}"`;
  if (!isJsonObject(value)) throw new UserError(`${where}: expected {"dtype", "shape", "data_offsets"}.`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(safetensorsDTypeBytes, dtype)) {
    throw new UserError(
      `${where}: dtype ${shorten(JSON.stringify(dtype) ?? "missing")} is not supported; known are ${Object.keys(safetensorsDTypeBytes).join(", ")}.`,
    );
  }
  if (!isSizes(shape)) throw new UserError(`${where}: shape is not a list of whole numbers.`);
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
    throw new UserError(`${where}: data_offsets is not [begin, end].`);
  }
  const sizeBytes = offsets[1]! - offsets[0]!;
  const expected = elementCount(shape) * safetensorsDTypeBytes[dtype as SafetensorsDType];
  if (sizeBytes !== expected) {
    throw new UserError(
      `${where}: dtype ${dtype} and shape [${shape.join(", ")}] need ${expected} bytes, data_offsets give ${sizeBytes}.`,
    );
  }
  return { name, dtype: dtype as SafetensorsDType, shape, offset: dataStart + offsets[0]!, sizeBytes };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** Entries come sorted by offset. */
function checkCover(entries: readonly TensorEntry[], dataStart: number, source: ByteSource): void {
  let end = dataStart;
  for (const entry of entries) {
    const where = `${source.name}: tensor "${shorten(entry.name)}"`;
    if (entry.offset < end)
      throw new UserError(`${where} overlaps the tensor before it; the file is corrupt.`);
    if (entry.offset > end) {
      throw new UserError(
        `${where}: ${entry.offset - end} bytes before it belong to no tensor; the file is corrupt.`,
      );
    }
    end += entry.sizeBytes;
    if (end > source.size) {
      throw new UserError(
        `${where}: its bytes end at ${end} and the file has only ${source.size}: it is cut off. Fetch it again.`,
      );
    }
  }
  if (end !== source.size) {
    throw new UserError(
      `${source.name}: ${source.size - end} bytes after the last tensor belong to no tensor; the file is corrupt.`,
    );
  }
}

/** JSON.parse keeps the last of two equal keys; here both must be seen. The text is already known to be valid. */
function refuseDuplicates(bytes: Uint8Array, header: JsonObject, file: string): void {
  const text = new TextDecoder().decode(bytes);
  const seen = new Set<string>();
  let depth = 0;
  let expectKey = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '"') {
      const start = i++;
      while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
      if (depth === 1 && expectKey) {
        const key = JSON.parse(text.slice(start, i + 1)) as string;
        if (seen.has(key)) throw new UserError(`${file}: the header names tensor "${shorten(key)}" twice.`);
        seen.add(key);
        expectKey = false;
      }
    } else if (c === "{" || c === "[") {
      depth++;
      if (depth === 1) expectKey = true;
    } else if (c === "}" || c === "]") depth--;
    else if (c === "," && depth === 1) expectKey = true;
  }
  if (seen.size !== Object.keys(header).length) throw new UserError(`${file}: the header repeats a key.`);
}

function shorten(text: string): string {
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}
