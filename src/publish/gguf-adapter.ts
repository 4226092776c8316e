// A LoRA adapter as a GGUF file for llama.cpp, which scales every product by alpha / rank with one alpha for the whole
// file: rank-stabilised scales and alpha patterns are therefore folded into that alpha and, where modules differ, into
// B. The rows of q's and k's B are interleaved as the weights they add to (models/gguf/names.ts).

import type { GgufTensorType, GgufValue } from "../formats/gguf.ts";
import type { GgufTensorToWrite } from "../formats/gguf-writer.ts";
import type { LoadedAdapter, TensorValues } from "../formats/peft.ts";
import { planAdapter } from "../models/adapter-plan.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { embeddingName, headName, type WeightSpec, weightSpecs } from "../models/decoder-weights.ts";
import { ownB } from "../models/expert-factors.ts";
import { orderColumns, orderRows } from "../models/gguf/delta.ts";
import { ggufArchitecture, ggufPieces, interleavedRows, interleaveRows } from "../models/gguf/names.ts";
import { adapterKind } from "../nn/adapter-kinds/index.ts";
import { encodeGguf } from "../quant/ggml/index.ts";
import { UserError } from "../util/errors.ts";

export type AdapterTensorType = Extract<GgufTensorType, "f32" | "f16" | "bf16">;

export interface GgufAdapter {
  readonly metadata: Map<string, GgufValue>;
  readonly tensors: GgufTensorToWrite[];
}

/** UserError for what a GGUF adapter cannot express. */
export function ggufAdapter(
  config: DecoderConfig,
  adapter: LoadedAdapter,
  about: {
    readonly name: string;
    readonly type: AdapterTensorType;
    /** Whether a tensor of the base that the file holds is the base's own still, which PEFT saves beside a head's factors. */
    readonly isUnchanged?: (name: string) => boolean;
  },
): GgufAdapter {
  const plan = planAdapter(config, adapter);
  const refuse = (what: string): never => {
    throw new UserError(
      `adapter: ${what}, which a GGUF adapter cannot express; export the merged model instead, without --adapter-only`,
    );
  };
  const { notInGguf } = adapterKind(adapter.config.kind);
  if (notInGguf !== undefined) refuse(notInGguf);
  const changed = [...plan.fixed.keys()].filter((name) => !about.isUnchanged?.(name));
  const whole = [...plan.replaced.keys(), ...changed];
  if (whole.length > 0) refuse(`it replaces ${whole.join(", ")} whole`);
  if (plan.base.vocabularySize !== config.vocabularySize)
    refuse(`its vocabulary is ${plan.base.vocabularySize}, not the model's ${config.vocabularySize}`);
  if (plan.embedding) refuse(`it adapts ${embeddingName}`);
  if (config.tied && plan.linears.has(headName)) refuse(`it adapts a ${headName} that is the embedding too`);
  const architecture = ggufArchitecture(config);
  const specs = new Map(weightSpecs({ ...config, tied: false }).map((spec) => [spec.name, spec]));
  const alpha = fileAlpha(adapter);
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", { type: "string", value: architecture.name }],
    ["general.type", { type: "string", value: "adapter" }],
    ["general.name", { type: "string", value: about.name }],
    ["adapter.type", { type: "string", value: "lora" }],
    ["adapter.lora.alpha", { type: "f32", value: alpha }],
  ]);
  const tensors: GgufTensorToWrite[] = [];
  for (const [module, pair] of plan.linears) {
    const { a, b, experts } = pair;
    if (architecture.unadapted?.includes(module))
      refuse(`it adapts ${module}, which llama.cpp multiplies with no adapter`);
    const { scale } = adapter.settings.get(module)!;
    const rank = a.shape[0]! / (experts ?? 1);
    const factor = (scale * rank) / alpha;
    const fold = (values: Float32Array) => (factor === 1 ? values : values.map((value) => value * factor));
    const spec = specs.get(`${module}.weight`)!;
    if (experts !== undefined) {
      const own = ownB(module, pair, config);
      tensors.push(...expertFactors(config, spec, a, { ...own, values: fold(own.values) }, about.type));
      continue;
    }
    const folded = fold(b.values);
    const turned = interleavedRows(config, spec);
    const outputs = b.shape[0]!;
    const whole = turned.rows > 0 ? interleaveRows(folded, turned, rank) : folded;
    const ordered = orderRows(config, spec, whole, rank);
    const add = (name: string, suffix: string, shape: readonly number[], values: Float32Array) => {
      const data = () => encodeGguf(values, about.type);
      tensors.push({ name: `${name}.${suffix}`, type: about.type, shape, data });
    };
    for (const { name, rows } of ggufPieces(config, spec)) {
      const { begin, end } = rows[0]!;
      add(name, "lora_a", a.shape, orderColumns(config, spec, a.values));
      const [first, last] = [begin * rank, Math.min(end, outputs) * rank];
      add(name, "lora_b", [Math.min(end, outputs) - begin, rank], ordered.subarray(first, last));
    }
  }
  return { metadata, tensors };
}

/**
 * Factors of experts as llama.cpp multiplies them, a stack for each of its own stacks of weights: gates and ups have one A,
 * and each its rows of B. Ours are A [E * R, in] and B [E, out, R].
 */
function expertFactors(
  config: DecoderConfig,
  spec: WeightSpec,
  a: TensorValues,
  b: TensorValues,
  type: AdapterTensorType,
): GgufTensorToWrite[] {
  const [experts, , rank] = b.shape as [number, number, number];
  return ggufPieces(config, spec).flatMap(({ name, shape, rows }) => {
    const parts = rows.map(({ begin, end }) => b.values.subarray(begin * rank, end * rank));
    const factors = [
      { suffix: "lora_a", shape: [experts, rank, a.shape[1]!], parts: [a.values] },
      { suffix: "lora_b", shape: [experts, shape[1]!, rank], parts },
    ];
    return factors.map(({ suffix, shape: of, parts: values }) => ({
      ...{ name: `${name}.${suffix}`, type, shape: of },
      data: () => encodeGguf(values.length === 1 ? values[0]! : joined(values), type),
    }));
  });
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The alpha that most modules share once their scale is written as alpha / rank; rounded to f32, as the file holds it. */
function fileAlpha(adapter: LoadedAdapter): number {
  const counts = new Map<number, number>();
  for (const { scale, rank } of adapter.settings.values()) {
    const alpha = Math.fround(scale * rank);
    if (alpha !== 0) counts.set(alpha, (counts.get(alpha) ?? 0) + 1);
  }
  const [most] = [...counts].sort((a, b) => b[1] - a[1]);
  if (!most)
    throw new UserError("adapter: its alpha is 0, so it changes nothing; there is nothing to export");
  return most[0];
}
