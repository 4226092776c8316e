// Reads GGUF, version 2 and 3: typed metadata, then tensors, all little-endian.
//
//   "GGUF" | version u32 | tensors u64 | entries u64
//   entry:  key string | type u32 | value             string: length u64, UTF-8;  array: type u32, count u64, items
//   tensor: name string | dimensions u32 | sizes u64, fastest first | type u32 | offset u64 from the data
//   padding to general.alignment (32) | data, each tensor starting at a multiple of the alignment
//
// Names, shapes and bytes only; block types are quant/ggml/, the writer is gguf-writer.ts. Shapes here
// are row-major [out, in], the reverse of the file's. Format: github.com/ggml-org/ggml, docs/gguf.md.

import { blockTypeOf, type GgufNumberType } from "../quant/ggml/index.ts";
import { elementCount } from "../tensor/tensor.ts";
import { BugError, UserError } from "../util/errors.ts";
import type { ByteSource } from "./byte-source.ts";

/** ggml's number of each type of numbers. */
const typeIds: Record<GgufNumberType, number> = {
  ...{ f32: 0, f16: 1, bf16: 30 },
  ...{ q4_0: 2, q4_1: 3, q5_0: 6, q5_1: 7, q8_0: 8, mxfp4: 39 },
  ...{ q4_k: 12, q5_k: 13, q6_k: 14 },
};

/** ggml's number, elements a block, and bytes a block. */
export const ggufTensorTypes = Object.fromEntries(
  Object.entries(typeIds).map(([name, id]) => {
    const type = name as GgufNumberType;
    const { block, blockBytes } = blockTypeOf(type) ?? {
      block: 1,
      blockBytes: type === "f32" ? 4 : 2,
    };
    return [type, { id, block, blockBytes }];
  }),
) as Record<GgufNumberType, { readonly id: number; readonly block: number; readonly blockBytes: number }>;

export type GgufTensorType = GgufNumberType;

/** In the order of ggml's numbers, from 0. */
const scalarTypes = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;

type NumberType = "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "f32" | "f64";

/** 64-bit integers are bigint; an array holds items of one type. */
export type GgufValue =
  | { readonly type: NumberType; readonly value: number }
  | { readonly type: "u64" | "i64"; readonly value: bigint }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | {
      readonly type: "array";
      readonly of: Exclude<GgufValue["type"], "array">;
      readonly value: readonly GgufItem[];
    };

export type GgufItem = number | bigint | boolean | string;

/** A value of metadata in a message. */
export function ggufText(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "string")
    return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}...` : value);
  return value === undefined ? "nothing" : String(value);
}

export const ggufTypeIds = Object.fromEntries(scalarTypes.map((type, id) => [type, id])) as Record<
  GgufValue["type"],
  number
>;

export const GGUF_ALIGNMENT = 32;

export interface GgufTensor {
  readonly name: string;
  readonly type: GgufTensorType;
  readonly shape: readonly number[]; // row-major
  /** From the start of the file; of several, as though they lay end to end. */
  readonly offset: number;
  readonly sizeBytes: number;
}

export interface GgufFile {
  /** For messages. */
  readonly path: string;
  /** One, or the parts of a model in several (gguf-parts.ts). */
  readonly files: readonly ByteSource[];
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  readTensor(name: string): Promise<Uint8Array<ArrayBuffer>>;
  /** Bytes [begin, begin + length) of a tensor. */
  readRange(name: string, begin: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  close(): Promise<void>;
}

/** Bytes of a tensor; undefined when its rows do not divide into the type's blocks. */
export function ggufTensorBytes(type: GgufTensorType, shape: readonly number[]): number | undefined {
  const { block, blockBytes } = ggufTensorTypes[type];
  if ((shape.at(-1) ?? 1) % block !== 0) return undefined;
  return (elementCount(shape) / block) * blockBytes;
}

/** Reads and checks everything before the data. UserError says what is wrong. Closes the source when it throws. */
export async function openGguf(source: ByteSource): Promise<GgufFile> {
  try {
    const header = await readHeader(source);
    const tensorOf = (name: string) => {
      const tensor = header.tensors.get(name);
      if (!tensor) throw new UserError(`${source.name}: there is no tensor "${name}" in this file.`);
      return tensor;
    };
    return {
      path: source.name,
      files: [source],
      ...header,
      async readTensor(name) {
        const { offset, sizeBytes } = tensorOf(name);
        return source.read(offset, sizeBytes);
      },
      async readRange(name, begin, length) {
        const { offset, sizeBytes } = tensorOf(name);
        if (begin < 0 || length < 0 || begin + length > sizeBytes)
          throw new BugError(`${name}: bytes ${begin} to ${begin + length} of ${sizeBytes}`);
        return source.read(offset + begin, length);
      },
      close: () => source.close(),
    };
  } catch (error) {
    await source.close();
    throw error;
  }
}

async function readHeader(source: ByteSource): Promise<Pick<GgufFile, "version" | "metadata" | "tensors">> {
  const fail = (message: string): never => {
    throw new UserError(`${source.name}: ${message}`);
  };
  const cursor = new Cursor(source);
  if ((await cursor.u32()) !== 0x46554747) fail("not a GGUF file: it does not begin with GGUF.");
  const version = await cursor.u32();
  if (version !== 2 && version !== 3) fail(`GGUF version ${version} is not supported; expected 2 or 3.`);
  // A tensor takes at least 24 bytes here and an entry 13: a count beyond that is a lie about this file.
  const tensorCount = await cursor.count("tensors", 24);
  const entryCount = await cursor.count("metadata entries", 13);

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < entryCount; i++) {
    const key = await cursor.string();
    if (metadata.has(key)) fail(`metadata key "${key}" stands there twice.`);
    metadata.set(key, await cursor.value(await cursor.u32(), key));
  }
  const alignment = metadata.get("general.alignment")?.value ?? GGUF_ALIGNMENT;
  if (typeof alignment !== "number" || alignment < 8 || alignment % 8 !== 0) {
    fail(`general.alignment is ${String(alignment)}; expected a multiple of 8.`);
  }

  const found: GgufTensor[] = [];
  for (let i = 0; i < tensorCount; i++) found.push(await cursor.tensor());
  const dataStart = Math.ceil(cursor.position / Number(alignment)) * Number(alignment);
  const tensors = new Map<string, GgufTensor>();
  for (const relative of found) {
    const tensor = { ...relative, offset: relative.offset + dataStart };
    if (tensors.has(tensor.name)) fail(`tensor "${tensor.name}" stands there twice.`);
    if (tensor.offset + tensor.sizeBytes > source.size) {
      fail(
        `tensor "${tensor.name}" ends at byte ${tensor.offset + tensor.sizeBytes} of ${source.size}: the file is cut off.`,
      );
    }
    tensors.set(tensor.name, tensor);
  }
  return { version, metadata, tensors };
}

const WINDOW_BYTES = 1 << 20;

/** Sequential reading through a window, every length checked against what is left of the file. */
class Cursor {
  position = 0;
  private window: DataView = new DataView(new ArrayBuffer(0));
  private windowStart = 0;

  constructor(private readonly source: ByteSource) {}

  private fail(message: string): never {
    throw new UserError(`${this.source.name}: at byte ${this.position}: ${message}`);
  }

  /** A view whose byte 0 is the current position; moves on by `length`. */
  private async take(length: number): Promise<DataView> {
    const { source, position } = this;
    if (length > source.size - position)
      this.fail("the header goes on beyond the end of the file; it is cut off.");
    const end = this.windowStart + this.window.byteLength;
    if (position + length > end) {
      const bytes = await source.read(
        position,
        Math.min(Math.max(length, WINDOW_BYTES), source.size - position),
      );
      this.window = new DataView(bytes.buffer);
      this.windowStart = position;
    }
    this.position += length;
    return new DataView(this.window.buffer, position - this.windowStart, length);
  }

  async u32(): Promise<number> {
    return (await this.take(4)).getUint32(0, true);
  }

  private async size(): Promise<number> {
    const value = (await this.take(8)).getBigUint64(0, true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) this.fail(`a length of ${value} is not possible.`);
    return Number(value);
  }

  /** A number of things of at least `bytesEach`, which must fit into the rest of the file. */
  async count(what: string, bytesEach: number): Promise<number> {
    const count = await this.size();
    if (count * bytesEach > this.source.size - this.position) {
      this.fail(`${count} ${what} cannot be in a file of ${this.source.size} bytes.`);
    }
    return count;
  }

  async string(): Promise<string> {
    const length = await this.count("characters", 1);
    const view = await this.take(length);
    // A byte order mark is a token like any other.
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(
      new Uint8Array(view.buffer, view.byteOffset, length),
    );
  }

  async value(typeId: number, key: string): Promise<GgufValue> {
    const type = scalarTypes[typeId];
    if (type !== "array") return { type, value: await this.item(type, key) } as GgufValue;
    const of = scalarTypes[await this.u32()];
    if (of === "array") this.fail(`metadata "${key}" is an array of arrays, which is not supported.`);
    const count = await this.count("array items", of === "string" ? 8 : 1);
    const value: GgufItem[] = [];
    for (let i = 0; i < count; i++) value.push(await this.item(of, key));
    return { type, of, value } as GgufValue;
  }

  private async item(type: (typeof scalarTypes)[number] | undefined, key: string): Promise<GgufItem> {
    switch (type) {
      case "u8":
        return (await this.take(1)).getUint8(0);
      case "i8":
        return (await this.take(1)).getInt8(0);
      case "u16":
        return (await this.take(2)).getUint16(0, true);
      case "i16":
        return (await this.take(2)).getInt16(0, true);
      case "u32":
        return this.u32();
      case "i32":
        return (await this.take(4)).getInt32(0, true);
      case "f32":
        return (await this.take(4)).getFloat32(0, true);
      case "bool":
        return (await this.take(1)).getUint8(0) !== 0;
      case "string":
        return this.string();
      case "u64":
        return (await this.take(8)).getBigUint64(0, true);
      case "i64":
        return (await this.take(8)).getBigInt64(0, true);
      case "f64":
        return (await this.take(8)).getFloat64(0, true);
      default:
        this.fail(`metadata "${key}" has a type that GGUF does not define.`);
    }
  }

  /** Its offset still counts from the start of the data. */
  async tensor(): Promise<GgufTensor> {
    const name = await this.string();
    const dimensions = await this.u32();
    if (dimensions > 4) this.fail(`tensor "${name}" has ${dimensions} dimensions; at most 4 are allowed.`);
    const shape: number[] = [];
    for (let i = 0; i < dimensions; i++) shape.unshift(await this.size());
    const id = await this.u32();
    const offset = await this.size();
    const entry = Object.entries(ggufTensorTypes).find(([, type]) => type.id === id);
    if (!entry) {
      this.fail(
        `tensor "${name}" is of ggml type ${id}; supported are ${Object.keys(ggufTensorTypes).join(", ")}.`,
      );
    }
    const type = entry[0] as GgufTensorType;
    const sizeBytes = ggufTensorBytes(type, shape);
    if (sizeBytes === undefined || !Number.isSafeInteger(sizeBytes)) {
      this.fail(`tensor "${name}": the shape [${shape.join(", ")}] does not go with type ${type}.`);
    }
    return { name, type, shape, offset, sizeBytes };
  }
}
