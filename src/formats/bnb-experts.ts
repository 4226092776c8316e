// Experts of a mixture in bitsandbytes' 4-bit form: every expert's matrices are weights of their own (bnb.ts), read here as
// those of a stack. Their scales are decoded, since gate and up have an offset each where a stack has one.

import { dequantizeScales } from "../quant/double-quant.ts";
import { UserError } from "../util/errors.ts";
import { bnbWeightNames, dequantizeBnbWeight, readBnbWeight, type StoredQuantized } from "./bnb.ts";
import type { ExpertStack } from "./model-tensors.ts";

const quantizedNames = new WeakMap<object, ReadonlySet<string>>();

/** Whether a stack's matrices are in 4 bits. */
export function isBnbStack({ parts, stored }: ExpertStack): boolean {
  let names = quantizedNames.get(stored);
  if (!names) quantizedNames.set(stored, (names = bnbWeightNames(stored)));
  return names.has(parts[0]![0]!);
}

/** The matrices of one expert, held to the shape [E, out, in] that the configuration gives the stack. */
export async function bnbMatrices(
  path: string,
  { parts, stored }: ExpertStack,
  expert: number,
  shape: readonly number[] | undefined,
): Promise<StoredQuantized[]> {
  const names = parts[expert];
  const [experts, out, width] = shape ?? [];
  if (!names || (experts !== undefined && experts !== parts.length))
    throw new UserError(
      `${path}: it holds ${parts.length} experts in a layer, and config.json says ${experts}.`,
    );
  const weights: StoredQuantized[] = [];
  for (const name of names) {
    const weight = await readBnbWeight(stored, name);
    if (!weight) throw new UserError(`${path}: "${name}" is not in 4 bits, and other experts are.`);
    const [rows, columns] = weight.shape;
    if (out !== undefined && (rows !== out / names.length || columns !== width))
      throw new UserError(
        `${path}: 4-bit tensor "${name}" has shape [${weight.shape}], but config.json makes it [${out / names.length}, ${width}]`,
      );
    weights.push(weight);
  }
  return weights;
}

/** One expert [out, in] in f32. */
export async function bnbExpert(
  path: string,
  stack: ExpertStack,
  expert: number,
  shape: readonly number[] | undefined,
): Promise<Float32Array> {
  const values = (await bnbMatrices(path, stack, expert, shape)).map(dequantizeBnbWeight);
  return joined(values, (length) => new Float32Array(length));
}

/** Codes and scales of one expert as one weight; undefined where its matrices do not end with a block. */
export function joinedCodes(
  weights: readonly StoredQuantized[],
): { readonly codes: Uint8Array; readonly absmax: Float32Array } | undefined {
  const whole = weights.every(({ shape, blockSize }) => (shape[0] * shape[1]) % blockSize === 0);
  if (weights.length > 1 && !whole) return undefined;
  const scales = weights.map(({ absmax, nested }) =>
    nested
      ? dequantizeScales(
          { codes: absmax as Uint8Array, absmax: nested.absmax, offset: nested.offset },
          nested.codebook,
          nested.blockSize,
        )
      : (absmax as Float32Array),
  );
  return {
    codes: joined(
      weights.map(({ codes }) => codes),
      (length) => new Uint8Array(length),
    ),
    absmax: joined(scales, (length) => new Float32Array(length)),
  };
}

function joined<T extends Uint8Array | Float32Array>(lists: readonly T[], make: (length: number) => T): T {
  const all = make(lists.reduce((sum, list) => sum + list.length, 0));
  let at = 0;
  for (const list of lists) {
    all.set(list as never, at);
    at += list.length;
  }
  return all;
}
