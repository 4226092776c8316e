// A model folder whose experts are seen as stacks, however its files hold them: gate_up_proj.weight [E, 2F, C] and
// down_proj.weight [E, C, F] of each layer's mlp.experts (Gemma 4: experts), the names that transformers 5 has for them in memory. The forms
// themselves: expert-layout.ts. What is written the files' own way again: models/stored-parts.ts.

import { encodeFrom } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import {
  biasFromInterleaved,
  fromInterleaved,
  fromMxfp4,
  mxfp4Block,
  mxfp4Numbers,
} from "./expert-layout.ts";
import type { ExpertStack, ModelFolder } from "./model-tensors.ts";
import { type SafetensorsDType, safetensorsDTypeBytes, type TensorEntry } from "./safetensors.ts";

const apart =
  /^(model\.layers\.\d+(?:\.mlp|\.block_sparse_moe)?)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight(\..+)?$/;
const fused = /^(model\.layers\.\d+(?:\.mlp)?\.experts)\.(gate_up_proj|down_proj)(_bias|_blocks|_scales)?$/;
/** Rows of our matrices in their order, by the names of a file. */
const orders: readonly (readonly [string, readonly (readonly string[])[]])[] = [
  [
    "gate_up_proj",
    [
      ["gate_proj", "up_proj"],
      ["w1", "w3"],
    ],
  ],
  ["down_proj", [["down_proj"], ["w2"]]],
];

/** The folder itself where it has no experts. UserError for experts that are not whole. */
export function withExpertStacks(folder: ModelFolder): ModelFolder {
  const names = [...folder.tensors.keys()];
  if (!names.some((name) => apart.test(name) || fused.test(name))) return folder;
  return new StackedFolder(folder);
}

/** Where an entry comes from: a stored tensor under another name, a stack, or biases in turn. */
type Origin =
  | { readonly kind: "same"; readonly name: string }
  | { readonly kind: "stack"; readonly stack: ExpertStack }
  | { readonly kind: "bias"; readonly name: string; readonly out: number };

class StackedFolder implements ModelFolder {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly stacks: ReadonlyMap<string, ExpertStack>;
  private readonly origins = new Map<string, Origin>();
  /** The expert that was last brought into our form, since readers take it piece by piece. */
  private held: { readonly key: string; readonly bytes: Promise<Uint8Array> } | undefined;

  constructor(private readonly inner: ModelFolder) {
    const tensors = new Map<string, TensorEntry>();
    const stacks = new Map<string, ExpertStack>();
    const experts = new Map<string, Map<number, Map<string, string>>>();
    const interleaves = inner.config.model_type === "gpt_oss";
    const put = (name: string, entry: TensorEntry, origin: Origin) => {
      if (tensors.has(name)) throw new UserError(`${inner.path}: it holds "${name}" in two forms.`);
      tensors.set(name, { ...entry, name });
      this.origins.set(name, origin);
      if (origin.kind === "stack") stacks.set(name, origin.stack);
    };
    for (const [name, entry] of inner.tensors) {
      const expert = apart.exec(name);
      if (expert) {
        const [, module, index, matrix, suffix] = expert;
        if (suffix !== undefined) continue; // what decodes it
        const layer = module!.replace(/\.block_sparse_moe$/, ".mlp");
        const layerExperts = experts.get(layer) ?? new Map<number, Map<string, string>>();
        experts.set(layer, layerExperts);
        const matrices = layerExperts.get(Number(index)) ?? new Map<string, string>();
        layerExperts.set(Number(index), matrices.set(matrix!, name));
        continue;
      }
      const joint = fused.exec(name);
      if (joint) {
        const [, module, matrix, kind] = joint;
        if (kind === "_scales") continue;
        const weight = `${module}.${matrix}`;
        const paired = matrix === "gate_up_proj";
        if (kind === "_bias") {
          const out = entry.shape.at(-1)!;
          const inPairs = paired && interleaves;
          put(`${weight}.bias`, entry, inPairs ? { kind: "bias", name, out } : { kind: "same", name });
        } else if (kind === "_blocks") {
          put(`${weight}.weight`, ...this.mxfp4(name, entry, paired));
        } else put(`${weight}.weight`, ...this.joint(name, entry, paired, interleaves));
        continue;
      }
      const own = name
        .replace(".block_sparse_moe.gate.", ".mlp.gate.")
        .replace(/\.self_attn\.sinks$/, "$&.weight");
      put(own, entry, { kind: "same", name });
    }
    for (const [layer, byIndex] of experts) {
      for (const [weight, ways] of orders) {
        const made = this.apart(layer, byIndex, ways);
        if (made) put(`${layer}.experts.${weight}.weight`, ...made);
      }
    }
    this.tensors = tensors;
    this.stacks = stacks;
  }

  /** A weight whose experts have tensors of their own. */
  private apart(
    layer: string,
    byIndex: ReadonlyMap<number, ReadonlyMap<string, string>>,
    ways: readonly (readonly string[])[],
  ): [TensorEntry, Origin] | undefined {
    const { inner } = this;
    const known = [...byIndex.values()][0]!;
    const way = ways.find((names) => names.some((name) => known.has(name)));
    if (!way) return undefined;
    const parts: string[][] = [];
    for (let e = 0; e < byIndex.size; e++) {
      const names = way.map((matrix) => byIndex.get(e)?.get(matrix));
      const missing = names.indexOf(undefined);
      if (missing >= 0)
        throw new UserError(
          `${inner.path}: ${layer}: there are tensors of ${byIndex.size} experts, and expert ${e} has no ${way[missing]}.weight. Fetch the folder again.`,
        );
      parts.push(names as string[]);
    }
    const first = inner.tensors.get(parts[0]![0]!)!;
    let sizeBytes = 0;
    for (const name of parts.flat()) {
      const entry = inner.tensors.get(name)!;
      sizeBytes += entry.sizeBytes;
      if (entry.dtype !== first.dtype || entry.shape.some((size, i) => size !== first.shape[i]))
        throw new UserError(
          `${inner.path}: tensor "${name}" is ${entry.dtype} [${entry.shape}], and that of expert 0 is ${first.dtype} [${first.shape}]; experts of a layer are alike.`,
        );
    }
    const [rows, width] = first.shape as [number, number];
    const shape = [parts.length, rows * way.length, width] as const;
    const paired = way.length === 2;
    const stack: ExpertStack = { shape, form: "apart", parts, paired, stored: inner };
    return [
      { ...first, shape, sizeBytes },
      { kind: "stack", stack },
    ];
  }

  /** A weight of all experts in one tensor. */
  private joint(
    name: string,
    entry: TensorEntry,
    paired: boolean,
    interleaves: boolean,
  ): [TensorEntry, Origin] {
    if (!interleaves || entry.shape.length !== 3) return [entry, { kind: "same", name }];
    const [experts, width, out] = entry.shape as [number, number, number];
    const shape = [experts, out, width] as const;
    const stack: ExpertStack = { shape, form: "interleaved", parts: [[name]], paired, stored: this.inner };
    return [
      { ...entry, shape },
      { kind: "stack", stack },
    ];
  }

  private mxfp4(name: string, entry: TensorEntry, paired: boolean): [TensorEntry, Origin] {
    const { inner } = this;
    const scales = name.replace(/_blocks$/, "_scales");
    const found = inner.tensors.get(scales);
    const [experts, out, blocks, bytes] = entry.shape;
    const fits =
      entry.shape.length === 4 &&
      bytes === mxfp4Block / 2 &&
      entry.dtype === "U8" &&
      found?.dtype === "U8" &&
      found.shape.join() === [experts, out, blocks].join();
    if (!fits)
      throw new UserError(
        `${inner.path}: tensor "${name}" is ${entry.dtype} [${entry.shape}] beside scales ${found ? `${found.dtype} [${found.shape}]` : "that are missing"}; MXFP4 is U8 [experts, outputs, inputs / 32, 16] with scales U8 [experts, outputs, inputs / 32].`,
      );
    const shape = [experts!, out!, blocks! * mxfp4Block] as const;
    const stack: ExpertStack = { shape, form: "mxfp4", parts: [[name, scales]], paired, stored: inner };
    return [
      { ...entry, dtype: "BF16", shape, sizeBytes: 2 * elementCount(shape) },
      { kind: "stack", stack },
    ];
  }

  get path() {
    return this.inner.path;
  }
  get config() {
    return this.inner.config;
  }
  get generationConfig() {
    return this.inner.generationConfig;
  }
  get weightBytes() {
    return this.inner.weightBytes;
  }
  get files() {
    return this.inner.files;
  }
  storedName(name: string): string {
    return this.inner.storedName(name);
  }
  close(): Promise<void> {
    return this.inner.close();
  }

  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    const origin = this.origin(name);
    if (origin.kind === "same") return this.inner.read(origin.name);
    return this.readRange(name, 0, this.tensors.get(name)!.sizeBytes);
  }

  async readInto(name: string, into: Uint8Array): Promise<void> {
    const origin = this.origin(name);
    if (origin.kind === "same") return this.inner.readInto(origin.name, into);
    into.set(await this.read(name));
  }

  async readRange(name: string, begin: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const origin = this.origin(name);
    if (origin.kind === "same") return this.inner.readRange(origin.name, begin, length);
    if (origin.kind === "bias") {
      const { dtype } = this.tensors.get(name)!;
      const bytes = await this.inner.read(origin.name);
      return biasFromInterleaved(bytes, safetensorsDTypeBytes[dtype], origin.out).slice(
        begin,
        begin + length,
      ) as Uint8Array<ArrayBuffer>;
    }
    const { stack } = origin;
    const { dtype, sizeBytes } = this.tensors.get(name)!;
    const out = new Uint8Array(length);
    // Pieces of equal length: a matrix of an expert that has several, or an expert.
    const each = stack.form === "apart" ? stack.parts[0]!.length : 1;
    const pieceBytes = sizeBytes / (stack.shape[0] * each);
    for (let at = begin; at < begin + length; ) {
      const piece = Math.floor(at / pieceBytes);
      const from = at - piece * pieceBytes;
      const count = Math.min(pieceBytes - from, begin + length - at);
      if (stack.form === "apart") {
        const stored = stack.parts[Math.floor(piece / each)]![piece % each]!;
        out.set(await this.inner.readRange(stored, from, count), at - begin);
      } else {
        const expert = await this.expert(name, stack, piece, dtype);
        out.set(expert.subarray(from, from + count), at - begin);
      }
      at += count;
    }
    return out;
  }

  async *readChunks(name: string, chunkBytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const origin = this.origin(name);
    if (origin.kind === "same") {
      yield* this.inner.readChunks(origin.name, chunkBytes);
      return;
    }
    const { sizeBytes } = this.tensors.get(name)!;
    for (let begin = 0; begin < sizeBytes; begin += chunkBytes)
      yield await this.readRange(name, begin, Math.min(chunkBytes, sizeBytes - begin));
  }

  private origin(name: string): Origin {
    const origin = this.origins.get(name);
    if (!origin) throw new UserError(`${this.path}: the model has no tensor "${name}".`);
    return origin;
  }

  /** One expert [out, in] of a stack that is stored otherwise. */
  private expert(
    name: string,
    stack: ExpertStack,
    index: number,
    dtype: SafetensorsDType,
  ): Promise<Uint8Array> {
    const key = `${name} ${index}`;
    if (this.held?.key !== key) this.held = { key, bytes: this.makeExpert(stack, index, dtype) };
    return this.held.bytes;
  }

  private async makeExpert(stack: ExpertStack, index: number, dtype: SafetensorsDType): Promise<Uint8Array> {
    const [, out, width] = stack.shape;
    if (stack.form === "mxfp4") {
      const { codes, scales } = await readMxfp4(stack, index);
      return encodeFrom(mxfp4Numbers(codes, scales), "bf16");
    }
    const size = safetensorsDTypeBytes[dtype];
    const bytes = out * width * size;
    const stored = await this.inner.readRange(stack.parts[0]![0]!, index * bytes, bytes);
    return fromInterleaved(stored, size, out, width, stack.paired);
  }
}

/** Codes and scales of one expert of an MXFP4 stack, [out, in] in our order. */
export async function readMxfp4({ shape, parts, paired, stored }: ExpertStack, expert: number) {
  const [, out, width] = shape;
  const [blocks, scales] = parts[0] as readonly [string, string];
  const [codeBytes, scaleBytes] = [(out * width) / 2, (out * width) / mxfp4Block];
  return fromMxfp4(
    await stored.readRange(blocks, expert * codeBytes, codeBytes),
    await stored.readRange(scales, expert * scaleBytes, scaleBytes),
    out,
    width,
    paired,
  );
}
