// A GGUF file as a model folder: its tensors under the names and in the order of rows that checkpoints have. Beside the
// small files that were made of the file's metadata lies a table (gguf.json) that says where in it each weight's rows are;
// models/gguf/unpack.node.ts writes it, because what an architecture calls its weights is known there. Blocks are decoded as
// they are read; readBlocks() gives them as they are.
//
// Not here: the file itself (gguf.ts), what its types mean (quant/ggml/).

import { blockTypeOf, decodeGguf } from "../quant/ggml/index.ts";
import { type DType, encodeFrom } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import type { Folder } from "./byte-source.ts";
import { type GgufFile, type GgufTensor, type GgufTensorType, ggufTensorTypes } from "./gguf.ts";
import { openWholeGguf } from "./gguf-parts.ts";
import type { JsonObject } from "./json.ts";
import type { ModelFolder } from "./model-tensors.ts";
import type { TensorEntry } from "./safetensors.ts";

export const GGUF_TABLE_FILE = "gguf.json";

/** Rows of a weight that a tensor of the file holds, stretch after stretch. */
export interface GgufPart {
  readonly tensor: string;
  readonly rows: readonly (readonly [begin: number, end: number])[];
}

/** Where a weight is. */
export interface GgufPlace {
  readonly name: string;
  readonly shape: readonly number[];
  /** Numbers a row. */
  readonly width: number;
  readonly parts: readonly GgufPart[];
  /** Its first rows are heads, whose halves lie there in turns. */
  readonly interleaved?: { readonly rows: number; readonly headWidth: number };
  /** What the file has added to it. */
  readonly shift?: number;
  /** Stretches of `width` columns of each row in the order in which the file has them, by their places in the weight. */
  readonly columns?: { readonly width: number; readonly order: readonly number[] };
  /** The file holds -exp of it. */
  readonly decays?: boolean;
}

/** gguf.json. */
export interface GgufTable {
  /** By absolute paths: the file, or its parts in order. */
  readonly files: readonly { readonly path: string; readonly sizeBytes: number }[];
  readonly weights: readonly GgufPlace[];
}

/** Blocks of a matrix's rows, in the order of its rows. */
export interface GgufBlocks {
  readonly type: GgufTensorType;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export interface GgufModelFolder extends ModelFolder {
  /** The type of a weight in the file; undefined where its parts are of several. */
  typeOf(name: string): GgufTensorType | undefined;
  /** Rows [begin, end) of a matrix as the file has them; undefined where its parts are of several types. */
  readBlocks(name: string, begin?: number, end?: number): Promise<GgufBlocks | undefined>;
}

export function isGgufFolder(folder: ModelFolder): folder is GgufModelFolder {
  return "readBlocks" in folder;
}

/** Opens what a table speaks of. UserError where the file is gone, or is another than the one the table was made of. */
export async function openGgufFolder(
  folder: Folder,
  table: GgufTable,
  { config, generationConfig }: Pick<ModelFolder, "config" | "generationConfig">,
): Promise<GgufModelFolder> {
  const { openFile } = await import("./disk.ts");
  const file = await openWholeGguf(table.files[0]!.path, openFile);
  try {
    for (const [i, { path, sizeBytes }] of table.files.entries()) {
      const { size } = file.files[i] ?? {};
      if (size === sizeBytes) continue;
      throw new UserError(
        `${path}: it has ${size ?? "no"} bytes and had ${sizeBytes} when it was opened as a model; give the file itself again`,
      );
    }
    return new GgufAsFolder(folder.path, config, generationConfig, file, table.weights);
  } catch (error) {
    await file.close();
    throw error;
  }
}

const floats = { f32: "F32", f16: "F16", bf16: "BF16" } as const;

interface Weight {
  readonly place: GgufPlace;
  readonly entry: TensorEntry;
  /** Of all parts; undefined where they differ. */
  readonly type: GgufTensorType | undefined;
}

class GgufAsFolder implements GgufModelFolder {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly weightBytes: number;
  readonly files: ModelFolder["files"];
  private readonly weights = new Map<string, Weight>();

  constructor(
    readonly path: string,
    readonly config: JsonObject,
    readonly generationConfig: JsonObject | undefined,
    private readonly file: GgufFile,
    places: readonly GgufPlace[],
  ) {
    this.files = file.files.map((source, i, { length }) => ({
      name: length === 1 ? "model.gguf" : `model-${i + 1}-of-${length}.gguf`,
      source,
    }));
    let bytes = 0;
    for (const place of places) {
      const tensors = place.parts.map((part) => this.tensorOf(place, part));
      const types = new Set(tensors.map(({ type }) => type));
      const type = types.size === 1 ? tensors[0]!.type : undefined;
      const isFloat = type !== undefined && type in floats && !isChanged(place);
      const dtype = isFloat ? floats[type as keyof typeof floats] : "F32";
      const sizeBytes = elementCount(place.shape) * (dtype === "F32" ? 4 : 2);
      const { offset } = tensors[0]!;
      const entry = { name: place.name, dtype, shape: place.shape, offset, sizeBytes };
      this.weights.set(place.name, { place, entry, type });
      bytes += tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
    }
    const inOrder = [...this.weights.values()].sort((a, b) => a.entry.offset - b.entry.offset);
    this.tensors = new Map(inOrder.map(({ entry }) => [entry.name, entry]));
    this.weightBytes = bytes;
  }

  typeOf(name: string): GgufTensorType | undefined {
    const weight = this.weights.get(name);
    return weight && isChanged(weight.place) ? undefined : weight?.type;
  }

  storedName(name: string): string {
    return name;
  }

  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    return this.readRange(name, 0, this.weight(name).entry.sizeBytes);
  }

  async readInto(name: string, into: Uint8Array): Promise<void> {
    into.set(await this.read(name));
  }

  async readRange(name: string, begin: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const { place, entry } = this.weight(name);
    const size = entry.dtype === "F32" ? 4 : 2;
    const rowBytes = place.width * size;
    const [first, last] = [Math.floor(begin / rowBytes), Math.ceil((begin + length) / rowBytes)];
    const out = new Uint8Array((last - first) * rowBytes);
    let at = 0;
    for (const { type, bytes } of await this.rows(name, first, last)) {
      const decoded = entry.dtype === "F32" ? this.decoded(place, type, bytes) : bytes;
      out.set(decoded, at);
      at += decoded.length;
    }
    return out.slice(begin - first * rowBytes, begin - first * rowBytes + length);
  }

  async *readChunks(name: string, chunkBytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const { sizeBytes } = this.weight(name).entry;
    for (let at = 0; at < sizeBytes; at += chunkBytes)
      yield await this.readRange(name, at, Math.min(chunkBytes, sizeBytes - at));
  }

  async readBlocks(name: string, begin = 0, end?: number): Promise<GgufBlocks | undefined> {
    const { place, type } = this.weight(name);
    if (type === undefined || isChanged(place)) return undefined;
    const all = elementCount(place.shape) / place.width;
    const stretches = await this.rows(name, begin, end ?? all);
    const bytes = new Uint8Array(stretches.reduce((sum, stretch) => sum + stretch.bytes.length, 0));
    let at = 0;
    for (const stretch of stretches) {
      bytes.set(stretch.bytes, at);
      at += stretch.bytes.length;
    }
    return { type, bytes };
  }

  close(): Promise<void> {
    return this.file.close();
  }

  private weight(name: string): Weight {
    const weight = this.weights.get(name);
    if (!weight) throw new UserError(`${this.path}: the model has no tensor "${name}".`);
    return weight;
  }

  private tensorOf({ name, width }: GgufPlace, part: GgufPart): GgufTensor {
    const tensor = this.file.tensors.get(part.tensor);
    const rows = part.rows.reduce((sum, [begin, end]) => sum + end - begin, 0);
    if (!tensor || elementCount(tensor.shape) !== rows * width) {
      throw new UserError(
        `${this.file.path}: tensor "${part.tensor}" ${tensor ? `has shape [${tensor.shape}]` : "is missing"}; expected ${rows} rows of ${width} for ${name}`,
      );
    }
    return tensor;
  }

  private decoded(
    { shift, columns, decays, width }: GgufPlace,
    type: GgufTensorType,
    bytes: Uint8Array<ArrayBuffer>,
  ): Uint8Array<ArrayBuffer> {
    let values = decodeGguf(bytes, type);
    if (shift) for (let i = 0; i < values.length; i++) values[i]! -= shift;
    if (decays) values = values.map((value) => Math.log(-value));
    if (columns) values = putBack(values, columns, width);
    return encodeFrom(values, "f32" satisfies DType) as Uint8Array<ArrayBuffer>;
  }

  /** Rows [begin, end) in their order, in stretches of one type. */
  private async rows(name: string, begin: number, end: number): Promise<GgufBlocks[]> {
    const { place } = this.weight(name);
    const { headWidth = 1, rows: ofHeads = 0 } = place.interleaved ?? {};
    const found: GgufBlocks[] = [];
    for (const part of place.parts) {
      const tensor = this.tensorOf(place, part);
      const rowBytes = rowBytesOf(tensor.type, place.width);
      let before = 0;
      for (const [first, last] of part.rows) {
        const from = Math.max(begin, first);
        const to = Math.min(end, last);
        if (from < to) {
          found.push({
            type: tensor.type,
            bytes: await this.inOrder(tensor, rowBytes, before + from - first, before + to - first, {
              headWidth,
              // Heads lie in the first part from its first row on.
              rows: ofHeads,
            }),
          });
        }
        before += last - first;
      }
    }
    return inOrderOfRows(found, place, begin, end);
  }

  /** Rows [from, to) of a tensor, whose first `rows` are heads, with the heads' halves put back. */
  private async inOrder(
    tensor: GgufTensor,
    rowBytes: number,
    from: number,
    to: number,
    { rows, headWidth }: { readonly rows: number; readonly headWidth: number },
  ): Promise<Uint8Array<ArrayBuffer>> {
    const read = (first: number, last: number) =>
      this.file.readRange(tensor.name, first * rowBytes, (last - first) * rowBytes);
    if (from >= rows) return read(from, to);
    const start = from - (from % headWidth);
    const stop = Math.max(to, Math.min(rows, Math.ceil(to / headWidth) * headWidth));
    const stored = await read(start, stop);
    const out = new Uint8Array((to - from) * rowBytes);
    const half = headWidth / 2;
    for (let row = from; row < to; row++) {
      const inHead = row % headWidth;
      const at = row < rows ? row - inHead + 2 * (inHead % half) + Math.floor(inHead / half) : row;
      const begin = (at - start) * rowBytes;
      out.set(stored.subarray(begin, begin + rowBytes), (row - from) * rowBytes);
    }
    return out;
  }
}

/** Whether the file has other numbers than the weight, or the same elsewhere in a row. */
const isChanged = ({ shift, columns, decays }: GgufPlace) =>
  Boolean(shift) || columns !== undefined || Boolean(decays);

/** Whole rows with their columns where the weight has them. */
function putBack(
  values: Float32Array,
  { width, order }: NonNullable<GgufPlace["columns"]>,
  rowWidth: number,
): Float32Array {
  const out = new Float32Array(values.length);
  for (let row = 0; row < values.length; row += rowWidth)
    for (const [i, place] of order.entries()) {
      const from = row + i * width;
      out.set(values.subarray(from, from + width), row + place * width);
    }
  return out;
}

/** Stretches of several parts take turns (an expert's gate, its up): by the rows at which they begin. */
function inOrderOfRows(
  stretches: readonly GgufBlocks[],
  { parts }: GgufPlace,
  begin: number,
  end: number,
): GgufBlocks[] {
  if (parts.length === 1 && parts[0]!.rows.length === 1) return [...stretches];
  const starts = parts
    .flatMap(({ rows }) => rows.map(([first, last]) => ({ first, last })))
    .filter(({ first, last }) => Math.max(begin, first) < Math.min(end, last))
    .map(({ first }, i) => ({ first, stretch: stretches[i]! }));
  return starts.sort((a, b) => a.first - b.first).map(({ stretch }) => stretch);
}

function rowBytesOf(type: GgufTensorType, width: number): number {
  const { block, blockBytes } = ggufTensorTypes[type];
  // Of floats, rows of any length; of blocks, openGguf has seen to it that they divide.
  return blockTypeOf(type) ? (width / block) * blockBytes : width * blockBytes;
}
