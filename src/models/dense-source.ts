// A model folder's weights as floats, whatever form they are stored in, and what 4-bit training makes of dense ones:
// the sources that merging, exporting and the receipt of a merge read. Weights that stay in 4 bits on a device come
// from load-model.ts's `quantized` and `quantize`.

import { bnbWeightNames, dequantizeBnbWeight, readBnbWeight } from "../formats/bnb.ts";
import { parseQuantizationConfig } from "../formats/bnb-config.ts";
import { bnbExpert, isBnbStack } from "../formats/bnb-experts.ts";
import type { ModelFolder } from "../formats/model-folder.ts";
import { dequantizeScales, quantizeScales } from "../quant/double-quant.ts";
import { type QuantizerName, quantizers } from "../quant/index.ts";
import { decodeToF32, dtypeBytes } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { BugError, UserError } from "../util/errors.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { storedName, weightSpecs } from "./decoder-weights.ts";
import type { WeightSource } from "./load-model.ts";
import { isQuantizable } from "./mixture-size.ts";
import { folderSource } from "./open-model.ts";

export interface DenseSource extends WeightSource {
  /** Names of the weights that are stored in 4 bits and dequantised on the way. */
  readonly quantizedNames: ReadonlySet<string>;
}

/** The weights of a folder of this configuration (folder-config.ts); those that bitsandbytes stored in 4 bits come out in f32. */
export function denseSource(folder: ModelFolder, config: DecoderConfig): DenseSource {
  parseQuantizationConfig(folder.config, `${folder.path}/config.json`);
  const plain = folderSource(folder);
  const stored = (name: string) => storedName(config, name, (other) => folder.tensors.has(other));
  const quantizedNames = bnbWeightNames(folder);
  const stacks = new Map(
    [...(folder.stacks ?? [])].filter(([, stack]) => isBnbStack(stack) || stack.form === "mxfp4"),
  );
  for (const name of stacks.keys()) quantizedNames.add(name);
  // A 4-bit weight's shape is not in the header: the configuration gives it, and reading holds the file to it.
  const shapes = new Map(weightSpecs(config).map((spec) => [spec.name, spec.shape]));
  // Experts one by one: a stack of them is large.
  const latestExpert = latestWeight(async (key) => {
    const [, name, expert] = /^(.*) (\d+)$/.exec(key)!;
    return bnbExpert(folder.path, stacks.get(name!)!, Number(expert), shapes.get(name!));
  });
  const latest = latestWeight(async (name) => {
    const weight = await readBnbWeight(folder, name);
    if (!weight) throw new BugError(`${name} was listed as a 4-bit weight and is none`);
    const shape = shapes.get(name);
    if (shape && weight.shape.some((size, i) => size !== shape[i])) {
      throw new UserError(
        `${folder.path}: 4-bit tensor "${name}" has shape [${weight.shape}], but config.json makes it [${shape}]`,
      );
    }
    return dequantizeBnbWeight(weight);
  });
  return {
    path: folder.path,
    quantizedNames,
    find(name) {
      if (!quantizedNames.has(name)) return plain.find(stored(name));
      const shape = shapes.get(name);
      if (stacks.get(name)?.form === "mxfp4") return plain.find(name);
      return shape && { dtype: "f32", shape };
    },
    async read(name, offset, length) {
      const stack = stacks.get(name);
      if (stack && stack.form !== "mxfp4") {
        const expertBytes = 4 * elementCount(shapes.get(name)!.slice(1));
        return inPieces(expertBytes, offset, length, (expert, from, count) =>
          latestExpert(`${name} ${expert}`, from, count),
        );
      }
      return quantizedNames.has(name) && !stack
        ? latest(name, offset, length)
        : plain.read(stored(name), offset, length);
    },
  };
}

/**
 * Dense weights as QLoRA's training sees them: each linear weight through 4 bits with block size 64 and quantised scales,
 * and back (Dettmers et al. 2023).
 */
export function fourBitView(
  source: WeightSource,
  config: DecoderConfig,
  quantType: QuantizerName,
): WeightSource {
  const quantizer = quantizers[quantType];
  const linears = new Set(weightSpecs(config).flatMap((spec) => (isQuantizable(spec) ? [spec.name] : [])));
  const blockSize = 64;
  // Each expert of a stack is quantised by itself.
  const sizeOf = (name: string) => elementCount(source.find(name)!.shape.slice(-2));
  const latest = latestWeight(async (key) => {
    const [, name, expert] = /^(.*) (\d+)$/.exec(key)! as unknown as [string, string, string];
    const { dtype } = source.find(name)!;
    const count = sizeOf(name);
    const bytes = count * dtypeBytes[dtype];
    const values = decodeToF32(await source.read(name, Number(expert) * bytes, bytes), dtype);
    const { codes, absmax } = quantizer.quantize(values, blockSize);
    return quantizer.dequantize(
      { codes, absmax: dequantizeScales(quantizeScales(absmax)) },
      count,
      blockSize,
    );
  });
  return {
    path: source.path,
    find(name) {
      const found = source.find(name);
      return found && linears.has(name) ? { dtype: "f32", shape: found.shape } : found;
    },
    async read(name, offset, length) {
      if (!linears.has(name)) return source.read(name, offset, length);
      return inPieces(4 * sizeOf(name), offset, length, (expert, from, count) =>
        latest(`${name} ${expert}`, from, count),
      );
    },
  };
}

/** Byte ranges of weights that are made whole: the latest one stays, since a reader takes it piece by piece. */
function latestWeight(make: (name: string) => Promise<Float32Array>) {
  let held: { readonly name: string; readonly bytes: Uint8Array } | undefined;
  return async (name: string, offset: number, length: number): Promise<Uint8Array> => {
    if (held?.name !== name) {
      held = undefined;
      held = { name, bytes: new Uint8Array((await make(name)).buffer) };
    }
    return held.bytes.slice(offset, offset + length);
  };
}

/** Bytes [offset, offset + length) of pieces of equal size, each read by itself. */
async function inPieces(
  pieceBytes: number,
  offset: number,
  length: number,
  read: (piece: number, from: number, count: number) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  const out = new Uint8Array(length);
  for (let at = offset; at < offset + length; ) {
    const piece = Math.floor(at / pieceBytes);
    const from = at - piece * pieceBytes;
    const count = Math.min(pieceBytes - from, offset + length - at);
    out.set(await read(piece, from, count), at - offset);
    at += count;
  }
  return out;
}
