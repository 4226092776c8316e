// The tensors of an adapter file by what they are: factors, modules saved whole, and tensors of the base itself. Names
// come from several hands (PEFT, torch.compile, data-parallel wrappers, raw state dicts), so what wraps a model is taken
// off wherever it stands in a name. What the tensors do to a model is models/adapter-plan.ts's. Part of peft.ts.

import { adapterKind, type KindTensor } from "../nn/adapter-kinds/index.ts";
import { decodeToF32 } from "../tensor/dtype.ts";
import { UserError } from "../util/errors.ts";
import { type AdapterConfig, savedWholeMatcher } from "./adapter-targets.ts";
import { fromSafetensorsDType, type SafetensorsFile } from "./safetensors.ts";

export interface TensorValues {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** The two factors of one module: A [rank, in], B [out, rank]; of an embedding [V, C], A [rank, V] and B [C, rank]. */
export interface AdapterPair {
  readonly a: TensorValues;
  readonly b: TensorValues;
  readonly embedding?: boolean;
  /** Of so many experts (expert-adapters.ts): A [experts * rank, in], B [out, rank * experts], as PEFT orders them. */
  readonly experts?: number;
  /** What the adapter's kind has beside the factors, by KindTensor.name. */
  readonly tensors?: ReadonlyMap<string, TensorValues>;
}

/** A module's tensors as they are found. */
interface FoundPair {
  a?: TensorValues;
  b?: TensorValues;
  embedding?: boolean;
  readonly tensors: Map<string, TensorValues>;
}

export interface AdapterWeights {
  /** By module path, e.g. "model.layers.0.self_attn.q_proj". */
  readonly modules: ReadonlyMap<string, AdapterPair>;
  /**
   * What trains whole, by the base model's tensor names: modules saved whole take the place of the base's own in this
   * adapter alone; so do trained biases.
   */
  readonly replacements: ReadonlyMap<string, TensorValues>;
  /**
   * Tensors of the base itself, which PEFT saves beside adapted or resized embeddings: read into the base, so tied
   * tables both become them, and frozen.
   */
  readonly baseTensors?: ReadonlyMap<string, TensorValues>;
}

/** Names that wrappers put between the parts of a path. */
const wrappers = new Set(["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]);

/** A key of the file as the base model names it. */
function unwrapped(key: string): string {
  const parts = key.split(".").filter((part) => !wrappers.has(part));
  let start = 0;
  while (parts[start] === "base_model" && parts[start + 1] === "model") start += 2;
  return parts.slice(start).join(".");
}

type Role =
  | { readonly kind: "a" | "b"; readonly module: string; readonly embedding: boolean }
  | { readonly kind: "own"; readonly module: string; readonly tensor: string }
  | { readonly kind: "whole"; readonly name: string; readonly form: "plain" | "copy" | "base" }
  | { readonly kind: "skip" };

/** What a tensor of the file is, by its name. */
function roleOf(key: string, file: string, own: readonly KindTensor[]): Role {
  const name = unwrapped(key);
  // A raw state dict still holds the adapter's name ("default") in the middle.
  const factor = /^(.+)\.lora_(embedding_)?([AB])(?:\.[^.]+)??(\.weight)?$/.exec(name);
  if (factor && (factor[2] !== undefined) === (factor[4] === undefined)) {
    const kind = factor[3] === "A" ? "a" : "b";
    return { kind, module: factor[1]!, embedding: factor[2] !== undefined };
  }
  for (const { name: tensor, peftName } of own) {
    const module = new RegExp(`^(.+)\\.${peftName}(?:\\.[^.]+)??(?:\\.weight)?$`).exec(name)?.[1];
    if (module !== undefined) return { kind: "own", module, tensor };
  }
  if (/\.token_adapter\./.test(name)) {
    throw new UserError(
      `${file}: ${key}: single trained rows (trainable_token_indices) are not supported; merge the adapter with PEFT first.`,
    );
  }
  if (/\.lora_\w+/.test(name))
    throw new UserError(`${file}: ${key}: this kind of adapter tensor is not supported.`);
  if (/\.original_module\./.test(name)) return { kind: "skip" };
  const whole = /^(.+?)(\.base_layer|\.modules_to_save(?:\.[^.]+)?)?\.(weight|bias)$/.exec(name);
  if (!whole)
    throw new UserError(`${file}: ${key}: expected ...lora_A.weight, ...lora_B.weight or a whole weight.`);
  const form = whole[2] === undefined ? "plain" : whole[2] === ".base_layer" ? "base" : "copy";
  return { kind: "whole", name: `${whole[1]}.${whole[3]}`, form };
}

/** Reads the file. UserError for factors without their other half, and for kinds of adapters not supported. */
export async function readAdapterTensors(
  file: SafetensorsFile,
  config: AdapterConfig,
): Promise<AdapterWeights> {
  const factors = new Map<string, FoundPair>();
  const { tensors: own } = adapterKind(config.kind);
  const replacements = new Map<string, TensorValues>();
  const baseTensors = new Map<string, TensorValues>();
  const plain = new Set<string>();
  const saved = savedWholeMatcher(config.modulesToSave);
  for (const key of file.tensors.keys()) {
    const role = roleOf(key, file.source.name, own);
    if (role.kind === "skip") continue;
    const values = await readValues(file, key);
    if (role.kind !== "whole") {
      const pair: FoundPair = factors.get(role.module) ?? { tensors: new Map() };
      factors.set(role.module, pair);
      if (role.kind === "own") {
        pair.tensors.set(role.tensor, values);
        continue;
      }
      if (pair[role.kind]) {
        throw new UserError(
          `${file.source.name}: it has two ${role.kind.toUpperCase()} factors for ${role.module}.`,
        );
      }
      pair[role.kind] = values;
      if (role.embedding) pair.embedding = true;
      continue;
    }
    const { name, form } = role;
    // Of a module saved whole PEFT reads the plain name, and other forms only where that is not there.
    if (form === "plain") plain.add(name);
    else if (plain.has(name)) continue;
    const trains =
      form === "copy" ||
      saved(name.slice(0, name.lastIndexOf("."))) ||
      (config.bias !== "none" && name.endsWith(".bias"));
    (trains ? replacements : baseTensors).set(name, values);
  }
  return { modules: pairsOf(factors, own, file.source.name), replacements, baseTensors };
}

function pairsOf(
  factors: ReadonlyMap<string, FoundPair>,
  own: readonly KindTensor[],
  file: string,
): Map<string, AdapterPair> {
  const modules = new Map<string, AdapterPair>();
  for (const module of [...factors.keys()].sort(byLayer)) {
    const { a, b, embedding, tensors } = factors.get(module)!;
    if (!a || !b) {
      const has = a ? "only lora_A" : b ? "only lora_B" : "no factors";
      throw new UserError(`${file}: ${module} has ${has}; expected both factors.`);
    }
    for (const { name, peftName } of own) {
      if (!tensors.has(name))
        throw new UserError(`${file}: ${module} has no ${peftName}, which its adapter_config.json asks for.`);
    }
    const pair = own.length > 0 ? { a, b, tensors } : { a, b };
    modules.set(module, embedding ? { ...pair, embedding } : pair);
  }
  return modules;
}

async function readValues(file: SafetensorsFile, key: string): Promise<TensorValues> {
  const { dtype: fileDType, shape } = file.tensors.get(key)!;
  const dtype = fromSafetensorsDType(fileDType);
  if (dtype !== "f32" && dtype !== "bf16" && dtype !== "f16" && dtype !== "f64") {
    throw new UserError(
      `${file.source.name}: ${key} has dtype ${fileDType}; expected F32, BF16, F16 or F64.`,
    );
  }
  return { shape, values: decodeToF32(await file.readTensor(key), dtype) };
}

/** model.layers.2 before model.layers.10. */
function byLayer(a: string, b: string): number {
  return a.localeCompare(b, "en", { numeric: true });
}
