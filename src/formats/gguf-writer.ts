// Writes GGUF version 3, tensor by tensor and atomically. What goes into the metadata of which kind of file is the
// caller's affair; the byte layout is drawn in gguf.ts, block types are quant/ggml/.

import { BugError, invariant } from "../util/errors.ts";
import { writeAtomically } from "./atomic-file.ts";
import {
  GGUF_ALIGNMENT,
  type GgufItem,
  type GgufTensorType,
  type GgufValue,
  ggufTensorBytes,
  ggufTensorTypes,
  ggufTypeIds,
} from "./gguf.ts";

export interface GgufTensorToWrite {
  readonly name: string;
  readonly type: GgufTensorType;
  /** Row-major, [out, in]. */
  readonly shape: readonly number[];
  /** Called when its turn comes, so that one tensor is in memory at a time. */
  data(): Uint8Array | Promise<Uint8Array> | AsyncIterable<Uint8Array>;
}

/** Writes the file. UserError when the disk is full or the place cannot be written; the old file then stays. */
export async function writeGguf(
  path: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensorToWrite[],
): Promise<void> {
  invariant(!metadata.has("general.alignment"), "GGUF files are written with the default alignment");
  await writeAtomically(path, async (append) => {
    await append(headerOf(metadata, tensors));
    for (const tensor of tensors) {
      const size = bytesOf(tensor);
      const data = await tensor.data();
      let written = 0;
      for await (const piece of data instanceof Uint8Array ? [data] : data) {
        written += piece.byteLength;
        await append(piece);
      }
      if (written !== size)
        throw new BugError(`${tensor.name}: wrote ${written} bytes, its shape needs ${size}`);
      await append(new Uint8Array(aligned(size) - size));
    }
  });
}

function bytesOf({ name, type, shape }: GgufTensorToWrite): number {
  const size = ggufTensorBytes(type, shape);
  if (size === undefined)
    throw new BugError(`${name}: [${shape.join(", ")}] does not divide into blocks of ${type}`);
  return size;
}

function aligned(size: number): number {
  return Math.ceil(size / GGUF_ALIGNMENT) * GGUF_ALIGNMENT;
}

function headerOf(
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensorToWrite[],
): Uint8Array {
  const out = new ByteBuilder();
  out.text("GGUF");
  out.u32(3);
  out.u64(tensors.length);
  out.u64(metadata.size);
  for (const [key, value] of metadata) {
    out.string(key);
    out.u32(ggufTypeIds[value.type]);
    if (value.type === "array") {
      out.u32(ggufTypeIds[value.of]);
      out.u64(value.value.length);
      for (const item of value.value) out.item(value.of, item);
    } else out.item(value.type, value.value);
  }
  let offset = 0;
  const seen = new Set<string>();
  for (const tensor of tensors) {
    invariant(!seen.has(tensor.name), `tensor ${tensor.name} is written twice`);
    seen.add(tensor.name);
    out.string(tensor.name);
    out.u32(tensor.shape.length);
    for (const size of [...tensor.shape].reverse()) out.u64(size);
    out.u32(ggufTensorTypes[tensor.type].id);
    out.u64(offset);
    offset += aligned(bytesOf(tensor));
  }
  out.padTo(GGUF_ALIGNMENT);
  return out.bytes();
}

type ScalarType = Exclude<GgufValue["type"], "array">;
type ScalarWriter = readonly [sizeBytes: number, put: (view: DataView, value: GgufItem) => void];

const scalarWriters: Record<Exclude<ScalarType, "string">, ScalarWriter> = {
  u8: [1, (view, value) => view.setUint8(0, Number(value))],
  i8: [1, (view, value) => view.setInt8(0, Number(value))],
  u16: [2, (view, value) => view.setUint16(0, Number(value), true)],
  i16: [2, (view, value) => view.setInt16(0, Number(value), true)],
  u32: [4, (view, value) => view.setUint32(0, Number(value), true)],
  i32: [4, (view, value) => view.setInt32(0, Number(value), true)],
  f32: [4, (view, value) => view.setFloat32(0, Number(value), true)],
  bool: [1, (view, value) => view.setUint8(0, value ? 1 : 0)],
  u64: [8, (view, value) => view.setBigUint64(0, BigInt(value), true)],
  i64: [8, (view, value) => view.setBigInt64(0, BigInt(value), true)],
  f64: [8, (view, value) => view.setFloat64(0, Number(value), true)],
};

/** Bytes appended one after the other. */
class ByteBuilder {
  private buffer = new Uint8Array(1 << 16);
  private length = 0;

  private room(count: number): DataView {
    while (this.length + count > this.buffer.length) {
      const larger = new Uint8Array(this.buffer.length * 2);
      larger.set(this.buffer);
      this.buffer = larger;
    }
    const view = new DataView(this.buffer.buffer, this.length, count);
    this.length += count;
    return view;
  }

  u32(value: number): void {
    this.room(4).setUint32(0, value, true);
  }

  u64(value: number): void {
    this.room(8).setBigUint64(0, BigInt(value), true);
  }

  text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    const view = this.room(bytes.length);
    new Uint8Array(view.buffer, view.byteOffset, bytes.length).set(bytes);
  }

  string(value: string): void {
    this.u64(new TextEncoder().encode(value).length);
    this.text(value);
  }

  item(type: ScalarType, value: GgufItem): void {
    if (type === "string") {
      this.string(String(value));
      return;
    }
    const [sizeBytes, put] = scalarWriters[type];
    put(this.room(sizeBytes), value);
  }

  padTo(alignment: number): void {
    this.room(Math.ceil(this.length / alignment) * alignment - this.length);
  }

  bytes(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }
}
