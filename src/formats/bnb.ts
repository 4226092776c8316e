// bitsandbytes' 4-bit checkpoints: a weight X stored as codes beside its scales, in an ordinary model folder.
//
//   X                                  U8  [ceil(n / 2), 1]   two codes a byte, the even element in the high nibble
//   X.absmax                           F32 [blocks], or U8 [blocks] when the scales are quantised too ("nested")
//   X.quant_map                        F32 [16]               the codebook
//   X.nested_absmax, .nested_quant_map F32 [ceil(blocks / nested block size)], F32 [256]     only when nested
//   X.quant_state.bitsandbytes__nf4    U8                     JSON: quant_type, blocksize, dtype, shape, nested_*
//
// Plain arrays in and out; how they are computed is in quant/, the device's form in backend/backend.ts
// (QuantizedMatrix), config.json's side in bnb-config.ts. Source: bitsandbytes 0.50, QuantState.as_dict.

import { blockSizes } from "../quant/codebook.ts";
import { dequantizeScales } from "../quant/double-quant.ts";
import { encodeFrom } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { BugError, UserError } from "../util/errors.ts";
import type { BnbQuantType } from "./bnb-config.ts";
import { isJsonObject, parseJson } from "./json.ts";
import type { SafetensorsDType, TensorEntry } from "./safetensors.ts";
import type { TensorSpec, TensorToWrite } from "./safetensors-writer.ts";

/** What a weight was before it was quantised: torch's names. */
export type StoredDType = "bfloat16" | "float16" | "float32";

/** A weight in 4 bits; the fields mean what QuantizedMatrix's do. */
export interface StoredQuantized {
  readonly quantType: BnbQuantType;
  readonly shape: readonly [number, number]; // [out, in]
  readonly dtype: StoredDType;
  readonly blockSize: number;
  readonly codes: Uint8Array; // [ceil(out * in / 2)]
  readonly codebook: Float32Array; // [16]
  /** F32 [blocks], or the 8-bit codes of the scales when nested. */
  readonly absmax: Float32Array | Uint8Array;
  readonly nested?: {
    readonly codebook: Float32Array; // [256]
    readonly absmax: Float32Array; // [ceil(blocks / blockSize)]
    readonly blockSize: number;
    readonly offset: number;
  };
}

/** As much of a ModelFolder as reading takes. */
export interface BnbSource {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  read(name: string): Promise<Uint8Array<ArrayBuffer>>;
}

const STATE = /^(.+)\.quant_state\.bitsandbytes__(nf4|fp4)$/;
const STATE_CAP_BYTES = 4096;
const NESTED_BLOCK_CAP = 65_536;

/** Names of the weights that the folder holds in 4 bits. */
export function bnbWeightNames(source: Pick<BnbSource, "tensors">): Set<string> {
  const names = new Set<string>();
  for (const name of source.tensors.keys()) {
    const weight = STATE.exec(name)?.[1];
    if (weight !== undefined) names.add(weight);
  }
  return names;
}

/** Reads weight `name` ("...q_proj.weight"), with every length held to its shape; undefined where it is not in 4 bits. */
export async function readBnbWeight(source: BnbSource, name: string): Promise<StoredQuantized | undefined> {
  const quantType = (["nf4", "fp4"] as const).find((type) => source.tensors.has(stateName(name, type)));
  if (!quantType) return undefined;
  const reader = new WeightReader(source, name);
  const state = await reader.state(quantType);
  const count = elementCount(state.shape);
  const blocks = Math.ceil(count / state.blockSize);
  // The dtype of the codes is whatever bnb_4bit_quant_storage was; the bytes are the same.
  const codes = await reader.bytes("", undefined, Math.ceil(count / 2));
  const codebook = await reader.floats(".quant_map", 16);
  const { nested, ...plain } = state;
  if (!nested) return { ...plain, codes, codebook, absmax: await reader.floats(".absmax", blocks) };
  return {
    ...plain,
    codes,
    codebook,
    absmax: await reader.bytes(".absmax", "U8", blocks),
    nested: {
      ...nested,
      codebook: await reader.floats(".nested_quant_map", 256),
      absmax: await reader.floats(".nested_absmax", Math.ceil(blocks / nested.blockSize)),
    },
  };
}

interface State {
  readonly quantType: BnbQuantType;
  readonly shape: readonly [number, number];
  readonly dtype: StoredDType;
  readonly blockSize: number;
  readonly nested?: { readonly blockSize: number; readonly offset: number };
}

/** Reads the tensors around one weight; its errors name the tensor. */
class WeightReader {
  constructor(
    private readonly source: BnbSource,
    private readonly name: string,
  ) {}

  private fail(suffix: string, message: string): never {
    throw new UserError(`${this.source.path}: 4-bit tensor "${this.name}${suffix}": ${message}`);
  }

  async bytes(
    suffix: string,
    dtype: SafetensorsDType | undefined,
    sizeBytes: number,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const entry = this.source.tensors.get(this.name + suffix);
    if (!entry) this.fail(suffix, "it is missing, and the weight cannot be decoded without it.");
    if (dtype && entry.dtype !== dtype) this.fail(suffix, `its dtype is ${entry.dtype}; expected ${dtype}.`);
    if (entry.sizeBytes !== sizeBytes) {
      this.fail(
        suffix,
        `it has ${entry.sizeBytes} bytes; the weight's shape and block size need ${sizeBytes}.`,
      );
    }
    return this.source.read(this.name + suffix);
  }

  async floats(suffix: string, count: number): Promise<Float32Array> {
    const values = new Float32Array((await this.bytes(suffix, "F32", 4 * count)).buffer);
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) this.fail(suffix, `element ${bad} is ${values[bad]}; the file is corrupt.`);
    return values;
  }

  async state(quantType: BnbQuantType): Promise<State> {
    const suffix = stateName("", quantType);
    const entry = this.source.tensors.get(this.name + suffix)!;
    if (entry.sizeBytes > STATE_CAP_BYTES) this.fail(suffix, `${entry.sizeBytes} bytes are too many.`);
    const where = `${this.source.path}: 4-bit tensor "${this.name}${suffix}"`;
    const json = parseJson(await this.source.read(this.name + suffix), where);
    if (!isJsonObject(json)) this.fail(suffix, "expected a JSON object.");
    const { shape, dtype, blocksize: blockSize } = json;
    if (json.quant_type !== quantType) {
      this.fail(suffix, `quant_type is ${JSON.stringify(json.quant_type)}; expected "${quantType}".`);
    }
    if (!isMatrixShape(shape)) this.fail(suffix, `shape is ${JSON.stringify(shape)}; expected [out, in].`);
    if (!(blockSizes as readonly unknown[]).includes(blockSize)) {
      this.fail(
        suffix,
        `blocksize is ${JSON.stringify(blockSize)}; expected one of ${blockSizes.join(", ")}.`,
      );
    }
    if (dtype !== "bfloat16" && dtype !== "float16" && dtype !== "float32") {
      this.fail(suffix, `dtype is ${JSON.stringify(dtype)}; expected bfloat16, float16 or float32.`);
    }
    const state: State = { quantType, shape, dtype, blockSize: blockSize as number };
    if (!("nested_blocksize" in json)) return state;
    const { nested_blocksize: nestedBlock, nested_offset: offset } = json;
    if (
      !Number.isInteger(nestedBlock) ||
      (nestedBlock as number) < 1 ||
      (nestedBlock as number) > NESTED_BLOCK_CAP
    ) {
      this.fail(
        suffix,
        `nested_blocksize is ${JSON.stringify(nestedBlock)}; expected a whole number such as 256.`,
      );
    }
    if (typeof offset !== "number") this.fail(suffix, "nested_offset is missing; expected a number.");
    if (json.nested_dtype !== "float32") {
      this.fail(suffix, `nested_dtype is ${JSON.stringify(json.nested_dtype)}; expected "float32".`);
    }
    return { ...state, nested: { blockSize: nestedBlock as number, offset } };
  }
}

function isMatrixShape(shape: unknown): shape is [number, number] {
  return (
    Array.isArray(shape) &&
    shape.length === 2 &&
    shape.every((size) => Number.isSafeInteger(size) && size > 0) &&
    Number.isSafeInteger(elementCount(shape as number[]))
  );
}

/** Bytes of a padded quant_state: more than any shape and offset take, and a multiple of 8. */
const PADDED_STATE_BYTES = 256;

/** What bnbTensors(name, weight, true) will write, known before the weight is quantised. */
export function bnbSpecs(
  name: string,
  { shape, blockSize, quantType }: Pick<StoredQuantized, "shape" | "blockSize" | "quantType">,
  nestedBlockSize: number | undefined,
): TensorSpec[] {
  const count = elementCount(shape);
  const blocks = Math.ceil(count / blockSize);
  const spec = (suffix: string, dtype: SafetensorsDType, ...size: number[]): TensorSpec => {
    return { name: name + suffix, dtype, shape: size };
  };
  return [
    spec("", "U8", Math.ceil(count / 2), 1),
    spec(".absmax", nestedBlockSize ? "U8" : "F32", blocks),
    spec(".quant_map", "F32", 16),
    ...(nestedBlockSize
      ? [
          spec(".nested_absmax", "F32", Math.ceil(blocks / nestedBlockSize)),
          spec(".nested_quant_map", "F32", 256),
        ]
      : []),
    spec(stateName("", quantType), "U8", PADDED_STATE_BYTES),
  ];
}

/**
 * The tensors that stand for a weight in a file. `padded`: spaces follow the quant_state, whose length otherwise
 * depends on the digits of the offset, so that a file can be laid out before its weights are quantised.
 */
export function bnbTensors(name: string, weight: StoredQuantized, padded = false): TensorToWrite[] {
  checkLengths(name, weight);
  const { nested, codes, codebook, absmax } = weight;
  const u8 = (suffix: string, shape: readonly number[], bytes: Uint8Array): TensorToWrite => {
    return { name: name + suffix, dtype: "U8", shape, data: () => bytes };
  };
  const f32 = (suffix: string, values: Float32Array): TensorToWrite => {
    return {
      name: name + suffix,
      dtype: "F32",
      shape: [values.length],
      data: () => encodeFrom(values, "f32"),
    };
  };
  const json = stateJson(weight);
  const state = new TextEncoder().encode(padded ? json.padEnd(PADDED_STATE_BYTES) : json);
  return [
    u8("", [codes.length, 1], codes),
    absmax instanceof Uint8Array ? u8(".absmax", [absmax.length], absmax) : f32(".absmax", absmax),
    f32(".quant_map", codebook),
    ...(nested ? [f32(".nested_absmax", nested.absmax), f32(".nested_quant_map", nested.codebook)] : []),
    u8(stateName("", weight.quantType), [state.length], state),
  ];
}

/** The weight in f32, row-major: codebook[code] * scale, each product rounded once. */
export function dequantizeBnbWeight(weight: StoredQuantized): Float32Array {
  const { nested, absmax, codes, codebook, blockSize } = weight;
  const scales = nested
    ? dequantizeScales(
        { codes: absmax as Uint8Array, absmax: nested.absmax, offset: nested.offset },
        nested.codebook,
        nested.blockSize,
      )
    : absmax;
  const out = new Float32Array(elementCount(weight.shape));
  for (let i = 0; i < out.length; i++) {
    const byte = codes[i >>> 1]!;
    out[i] = codebook[i & 1 ? byte & 15 : byte >>> 4]! * scales[Math.floor(i / blockSize)]!;
  }
  return out;
}

function stateName(name: string, quantType: BnbQuantType): string {
  return `${name}.quant_state.bitsandbytes__${quantType}`;
}

/** With Python's spaces, as bitsandbytes writes it. */
function stateJson({ quantType, blockSize, dtype, shape, nested }: StoredQuantized): string {
  const fields: [string, unknown][] = [
    ["quant_type", quantType],
    ["blocksize", blockSize],
    ["dtype", dtype],
    ["shape", shape],
  ];
  if (nested) {
    fields.push(
      ["nested_blocksize", nested.blockSize],
      ["nested_dtype", "float32"],
      ["nested_offset", nested.offset],
    );
  }
  const text = (value: unknown) => (Array.isArray(value) ? `[${value.join(", ")}]` : JSON.stringify(value));
  return `{${fields.map(([key, value]) => `"${key}": ${text(value)}`).join(", ")}}`;
}

function checkLengths(
  name: string,
  { shape, blockSize, codes, codebook, absmax, nested }: StoredQuantized,
): void {
  const count = elementCount(shape);
  const blocks = Math.ceil(count / blockSize);
  const fits =
    codes.length === Math.ceil(count / 2) &&
    codebook.length === 16 &&
    absmax.length === blocks &&
    absmax instanceof Uint8Array === (nested !== undefined) &&
    (!nested ||
      (nested.codebook.length === 256 && nested.absmax.length === Math.ceil(blocks / nested.blockSize)));
  if (!fits)
    throw new BugError(
      `${name}: codes and scales do not fit [${shape.join(", ")}] in blocks of ${blockSize}`,
    );
}
