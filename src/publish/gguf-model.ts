// A model as a GGUF file that llama.cpp loads: metadata and tensors under its names, in a chosen type, one piece of a
// tensor in memory at a time. The tokenizer's metadata is gguf-tokenizer.ts's, adapters are gguf-adapter.ts's, the
// bytes formats/gguf-writer.ts's. Keys and conventions: llama.cpp's converter (conversion/llama.py, qwen.py).

import type { GgufTensorType, GgufValue } from "../formats/gguf.ts";
import type { GgufTensorToWrite } from "../formats/gguf-writer.ts";
import type { DecoderConfig, LayerConfig } from "../models/decoder-config.ts";
import { type WeightSpec, weightSpecs } from "../models/decoder-weights.ts";
import { orderColumns, rowRanges, transformed } from "../models/gguf/delta.ts";
import {
  type GgufPiece,
  ggufArchitecture,
  ggufPieces,
  interleavedRows,
  interleaveRows,
  rowWidth,
} from "../models/gguf/names.ts";
import { ropeMetadata, ropeTensors } from "../models/gguf/rope.ts";
import type { WeightSource } from "../models/load-model.ts";
import { encodeGguf } from "../quant/ggml/index.ts";
import { decodeToF32, dtypeBytes } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import { fileTypes, type GgufFileType, mixedTypes } from "./gguf-mix.ts";

/** Mean squares of what each column of a tensor is multiplied with, by the tensor's name in GGUF; of experts one after the other. */
export type Importance = ReadonlyMap<string, Float32Array>;

const pieceElements = 2 * 2 ** 20;
/** Largest number that rounds to a finite f16. */
const largestF16 = 65519;

/** Metadata of the model itself. `warn` hears of what llama.cpp computes in another way. */
export function modelMetadata(
  config: DecoderConfig,
  about: { readonly name: string; readonly type: GgufFileType; readonly warn?: (message: string) => void },
): Map<string, GgufValue> {
  const { name: architecture, ...like } = ggufArchitecture(config);
  const metadata = new Map<string, GgufValue>();
  const u32 = (key: string, value: number) => metadata.set(key, { type: "u32", value });
  const f32 = (key: string, value: number) => metadata.set(key, { type: "f32", value });
  const text = (key: string, value: string) => metadata.set(key, { type: "string", value });
  text("general.architecture", architecture);
  text("general.type", "model");
  text("general.name", about.name);
  text(
    "general.size_label",
    sizeLabel(weightSpecs(config).reduce((sum, w) => sum + elementCount(w.shape), 0)),
  );
  u32("general.file_type", fileTypes[about.type].id);
  u32("general.quantization_version", 2);
  const key = (name: string) => `${architecture}.${name}`;
  /** One number, or one a layer where they differ. */
  const perLayer = (name: string, of: (layer: LayerConfig) => number) => {
    const values = config.layers.map(of);
    if (values.every((value) => value === values[0])) u32(key(name), values[0]!);
    else metadata.set(key(name), { type: "array", of: "u32", value: values });
  };
  u32(key("block_count"), config.layers.length);
  u32(key("context_length"), config.maxPositions);
  u32(key("embedding_length"), config.width);
  perLayer("feed_forward_length", (layer) => layer.mlpWidth);
  u32(key("attention.head_count"), config.heads);
  perLayer("attention.head_count_kv", ({ mixer, kvHeads }) =>
    like.headsOfMixers && mixer !== "attention" ? 0 : kvHeads,
  );
  const { headWidth } = config.layers[0]!;
  u32(key("attention.key_length"), headWidth);
  u32(key("attention.value_length"), headWidth);
  f32(key("attention.layer_norm_rms_epsilon"), config.normEpsilon);
  if (architecture === "llama") u32(key("vocab_size"), config.vocabularySize);
  for (const [name, value] of ropeMetadata(config, like, about.warn))
    metadata.set(key(`rope.${name}`), value);
  for (const [name, value] of Object.entries(like.metadata?.(config) ?? {})) metadata.set(key(name), value);
  const window = Math.max(...config.layers.map((layer) => layer.window));
  if (window > 0 && !like.windows) {
    about.warn?.(
      `llama.cpp lets every layer of a ${architecture} model see all earlier tokens: beyond ${window} tokens (the sliding window) it computes something else`,
    );
  }
  return metadata;
}

/** A number of parameters to two digits or more: 656K, 8.3M, 1.1B. */
function sizeLabel(parameters: number): string {
  const [unit, letter] = (
    [
      [1e12, "T"],
      [1e9, "B"],
      [1e6, "M"],
    ] as const
  ).find(([size]) => parameters > size) ?? [1e3, "K"];
  const scaled = parameters / unit;
  const digits = scaled < 0.5 ? 0 : String(Math.round(scaled)).length;
  return scaled.toFixed(Math.max(0, 2 - digits)) + letter;
}

/** The tensors, in the order of the layers. `importance` weighs the errors of quantised ones. */
export function modelTensors(
  config: DecoderConfig,
  source: WeightSource,
  file: GgufFileType,
  importance?: Importance,
): GgufTensorToWrite[] {
  const pieces = weightSpecs(config).flatMap((spec) =>
    ggufPieces(config, spec).map((piece) => ({ ...piece, spec })),
  );
  const like = ggufArchitecture(config);
  if (like.needsHead && config.tied) pieces.push({ ...pieces[0]!, name: "output.weight" });
  if (importance && !pieces.some(({ name }) => importance.has(name))) {
    throw new UserError(
      `the importance matrix has numbers for ${[...importance.keys()].slice(0, 3).join(", ") || "nothing"}, and none for this model's ${pieces[0]!.name}, ${pieces[1]!.name} and others: it was made of another model`,
    );
  }
  const types = mixedTypes(
    file,
    pieces.map(({ name, shape, spec }) => ({ name, shape, quantizable: isQuantizedThere(spec, name) })),
    {
      layers: config.layers.length,
      experts: Math.max(1, ...config.layers.map(({ experts }) => experts?.count ?? 1)),
      sharesValues:
        ["llama", "qwen2"].includes(like.name) &&
        config.layers.length === 80 &&
        config.layers[0]!.kvHeads < config.heads,
      hasImportance: importance !== undefined,
    },
  );
  const tensors = pieces.map(({ name, shape, rows, spec }, i): GgufTensorToWrite => {
    const weights = importance?.get(name);
    const expected = spec.kind === "experts" ? shape[0]! * shape[2]! : shape.at(-1)!;
    if (weights && weights.length !== expected) {
      throw new UserError(
        `the importance matrix has ${weights.length} numbers for ${name}, and this model's has ${expected} columns: it was made of another model`,
      );
    }
    return {
      ...{ name, shape, type: types[i]! },
      data: () => piecesOf(config, source, spec, types[i]!, rows, weights),
    };
  });
  return [...tensors, ...ropeTensors(config, like)];
}

/** Vectors, routers and kernels of convolutions stay as they are. */
function isQuantizedThere({ kind, dense }: WeightSpec, name: string): boolean {
  return kind !== "vector" && !dense && !/shortconv\.conv|ssm_conv1d|per_layer_model_proj/.test(name);
}

async function* piecesOf(
  config: DecoderConfig,
  source: WeightSource,
  spec: WeightSpec,
  type: GgufTensorType,
  stretches: GgufPiece["rows"],
  importance: Float32Array | undefined,
): AsyncGenerator<Uint8Array> {
  const [first] = stretches;
  const whole = stretches.length === 1 && first!.begin === 0 && first!.end === spec.shape[0];
  const ranges = whole ? rowRanges(config, spec) : stretches;
  if (!importance || spec.kind !== "experts") {
    for (const { begin, end } of ranges) yield* rowsOf(config, source, spec, type, begin, end, importance);
    return;
  }
  // Each expert has an importance of its own.
  const [, each, width] = spec.shape as [number, number, number];
  for (const { begin, end } of ranges) {
    for (let from = begin; from < end; ) {
      const expert = Math.floor(from / each);
      const to = Math.min(end, (expert + 1) * each);
      const own = importance.subarray(expert * width, (expert + 1) * width);
      yield* rowsOf(config, source, spec, type, from, to, own);
      from = to;
    }
  }
}

async function* rowsOf(
  config: DecoderConfig,
  source: WeightSource,
  spec: WeightSpec,
  type: GgufTensorType,
  firstRow: number,
  endRow: number,
  importance: Float32Array | undefined,
): AsyncGenerator<Uint8Array> {
  const found = source.find(spec.name);
  if (!found || elementCount(found.shape) !== elementCount(spec.shape)) {
    throw new UserError(
      `${source.path}: tensor "${spec.name}" ${found ? `has shape [${found.shape}]` : "is missing"}; config.json asks for [${spec.shape}]`,
    );
  }
  const width = rowWidth(spec);
  const turned = interleavedRows(config, spec);
  // Whole heads where rows are interleaved; whole rows always.
  const unit = turned.headWidth * width;
  const step = Math.max(1, Math.floor(pieceElements / unit)) * unit;
  const shift = spec.shifted ? config.normShift : 0;
  const total = endRow * width;
  const size = dtypeBytes[found.dtype];
  for (let start = firstRow * width; start < total; start += step) {
    const count = Math.min(step, total - start);
    const stored = decodeToF32(await source.read(spec.name, start * size, count * size), found.dtype);
    const values = orderColumns(config, spec, transformed(spec, stored));
    const most = type === "f32" || type === "bf16" ? Number.MAX_VALUE : largestF16;
    if (!values.every((value) => Math.abs(value) <= most)) {
      throw new UserError(
        `${source.path}: tensor "${spec.name}" holds values that ${type} cannot; use --type bf16 or f32`,
      );
    }
    if (shift !== 0) for (let i = 0; i < values.length; i++) values[i]! += shift;
    const left = { ...turned, rows: turned.rows - start / width };
    const ordered = left.rows > 0 ? interleaveRows(values, left, width) : values;
    yield encodeGguf(ordered, type, width, importance);
  }
}
