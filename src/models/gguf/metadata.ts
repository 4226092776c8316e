// Metadata of a GGUF file as numbers, under the names that its architecture gives them. Not here: what they mean for a
// model's configuration (config.ts, readers.ts).

import { type GgufFile, ggufText } from "../../formats/gguf.ts";
import { decodeGguf } from "../../quant/ggml/index.ts";
import { UserError } from "../../util/errors.ts";

/** Metadata of one file, by names below its architecture. */
export class Metadata {
  readonly architecture: string;

  constructor(readonly file: GgufFile) {
    const name = file.metadata.get("general.architecture")?.value;
    if (typeof name !== "string") throw new UserError(`${file.path}: it names no general.architecture`);
    this.architecture = name;
  }

  find(key: string): unknown {
    return this.file.metadata.get(`${this.architecture}.${key}`)?.value;
  }

  /** UserError where it is missing or no number, and there is no `usual`. */
  number(key: string, usual?: number): number {
    const found = this.find(key) ?? usual;
    const value = Array.isArray(found) ? this.same(key, found) : found;
    // Whatever integer type a writer chose; beyond 2^53 there is no such count.
    const number = typeof value === "bigint" ? Number(value) : value;
    if (typeof number === "number" && Number.isFinite(number)) return shortest(number);
    throw new UserError(
      `${this.file.path}: metadata ${this.architecture}.${key} should be a number, found ${ggufText(value)}`,
    );
  }

  optional(key: string): number | undefined {
    return this.find(key) === undefined ? undefined : this.number(key);
  }

  has(tensor: string): boolean {
    return this.file.tensors.has(tensor);
  }

  async floats(tensor: string): Promise<Float32Array | undefined> {
    const found = this.file.tensors.get(tensor);
    return found && decodeGguf(await this.file.readTensor(tensor), found.type);
  }

  /** One number a layer: a list, or what all have. */
  perLayer(key: string, layers: number): readonly number[] {
    const found = this.find(key);
    if (!Array.isArray(found)) return new Array<number>(layers).fill(this.number(key));
    const values = found.map((value) => (typeof value === "bigint" ? Number(value) : value));
    if (
      values.length === layers &&
      values.every((value) => typeof value === "number" && Number.isFinite(value))
    )
      return values as number[];
    throw new UserError(
      `${this.file.path}: metadata ${this.architecture}.${key} should be a list of ${layers} numbers, one a layer`,
    );
  }

  /** Flags, one a layer; undefined where there are none. */
  flags(key: string, layers: number): readonly boolean[] | undefined {
    const found = this.find(key);
    if (!Array.isArray(found)) return undefined;
    if (found.length === layers && found.every((value) => typeof value === "boolean"))
      return found as boolean[];
    throw new UserError(
      `${this.file.path}: metadata ${this.architecture}.${key} should be a list of ${layers} flags, one a layer`,
    );
  }

  private same(key: string, values: readonly unknown[]): unknown {
    if (values.every((value) => value === values[0])) return values[0];
    throw new UserError(
      `${this.file.path}: metadata ${this.architecture}.${key} differs from layer to layer, which is not read from GGUF`,
    );
  }
}

/** The shortest decimal that rounds to this number in f32; the number itself where it is none. */
export function shortest(value: number): number {
  if (Math.fround(value) !== value || Number.isInteger(value)) return value;
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}
