// Opens a model folder in Hugging Face layout: config.json, and the weights in one model.safetensors or in shards
// that model.safetensors.index.json lists. It knows names, shapes and bytes, not what a config or a tensor means:
// that is for models/. The writer is model-folder-writer.ts, the content hash model-hash.ts.

import { UserError } from "../util/errors.ts";
import type { ByteSource, Folder } from "./byte-source.ts";
import { withExpertStacks } from "./expert-tensors.ts";
import { GGUF_TABLE_FILE, type GgufTable, openGgufFolder } from "./gguf-folder.ts";
import { isJsonObject, type JsonObject, readJsonObject } from "./json.ts";
import type { ModelFolder } from "./model-tensors.ts";
import { openSafetensors, type SafetensorsFile, type TensorEntry } from "./safetensors.ts";

export type { ModelFolder } from "./model-tensors.ts";

export const CONFIG_FILE = "config.json";
export const GENERATION_CONFIG_FILE = "generation_config.json";
export const WEIGHTS_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

const CONFIG_CAP_BYTES = 16 << 20;
/** An index has about 100 bytes a tensor; the largest public mixtures of experts have under 10 MB. */
const INDEX_CAP_BYTES = 64 << 20;
const SHARDS_CAP = 4096;

/** Opens a folder by its path on disk, or any Folder. UserError says what is missing or broken. */
export async function openModelFolder(from: string | Folder): Promise<ModelFolder> {
  // Loaded only for a path, so that a browser never meets node:fs.
  const folder = typeof from === "string" ? await (await import("./disk.ts")).openFolder(from) : from;
  const names = new Set(await folder.list());
  if (!names.has(CONFIG_FILE)) throw new UserError(noConfig(folder.path, names));
  const config = await readJsonFile(folder, CONFIG_FILE, CONFIG_CAP_BYTES);
  const generationConfig = names.has(GENERATION_CONFIG_FILE)
    ? await readJsonFile(folder, GENERATION_CONFIG_FILE, CONFIG_CAP_BYTES)
    : undefined;
  if (names.has(GGUF_TABLE_FILE) && typeof from === "string" && (await isMadeOfGguf(from))) {
    const table = await readJsonFile(folder, GGUF_TABLE_FILE, INDEX_CAP_BYTES);
    return openGgufFolder(folder, table as unknown as GgufTable, { config, generationConfig });
  }
  // Where both are there, transformers too takes the single file.
  const map = names.has(WEIGHTS_FILE) ? undefined : await readIndex(folder, names);
  const fileNames = map ? [...new Set(map.values())].sort() : [WEIGHTS_FILE];

  const opened: { name: string; file: SafetensorsFile }[] = [];
  try {
    for (const name of fileNames) {
      opened.push({ name, file: await openSafetensors(await folder.open(name)) });
    }
    return withExpertStacks(new OpenFolder(folder.path, config, generationConfig, opened, map));
  } catch (error) {
    await Promise.all(opened.map(({ file }) => file.close()));
    throw error;
  }
}

/** A stranger's folder may not say which files of this machine hold its weights. */
async function isMadeOfGguf(path: string): Promise<boolean> {
  return (await import("./gguf-place.ts")).isGgufPlace(path);
}

class OpenFolder implements ModelFolder {
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly weightBytes: number;
  readonly files: { readonly name: string; readonly source: ByteSource }[];
  private readonly naming: Naming;
  private readonly placeOf = new Map<string, { readonly file: SafetensorsFile; readonly stored: string }>();

  constructor(
    readonly path: string,
    readonly config: JsonObject,
    readonly generationConfig: JsonObject | undefined,
    private readonly opened: readonly { readonly name: string; readonly file: SafetensorsFile }[],
    map: ReadonlyMap<string, string> | undefined,
  ) {
    this.files = opened.map(({ name, file }) => ({ name, source: file.source }));
    const tensors = new Map<string, TensorEntry>();
    const stored = new Set<string>();
    this.naming = namingOf(opened.flatMap(({ file }) => [...file.tensors.keys()]));
    for (const { name: fileName, file } of opened) {
      for (const [storedName, entry] of file.tensors) {
        if (map && map.get(storedName) !== fileName) continue;
        const name = this.naming.toTower(storedName);
        if (tensors.has(name)) {
          throw new UserError(
            `${path}: it holds both "${this.placeOf.get(name)!.stored}" and "${storedName}", which are names of one tensor.`,
          );
        }
        tensors.set(name, { ...entry, name });
        stored.add(storedName);
        this.placeOf.set(name, { file, stored: storedName });
      }
    }
    for (const [name, fileName] of map ?? []) {
      if (!stored.has(name)) {
        throw new UserError(
          `${path}/${INDEX_FILE}: it says that tensor "${name}" is in ${fileName}, and ${fileName} has no such tensor. The shards and the index are not of the same model; fetch the folder again.`,
        );
      }
    }
    this.tensors = tensors;
    this.weightBytes = [...tensors.values()].reduce((sum, entry) => sum + entry.sizeBytes, 0);
  }

  storedName(name: string): string {
    return this.naming.toStored(name);
  }

  private place(name: string): { readonly file: SafetensorsFile; readonly stored: string } {
    const place = this.placeOf.get(name);
    if (!place) throw new UserError(`${this.path}: the model has no tensor "${name}".`);
    return place;
  }

  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    const { file, stored } = this.place(name);
    return file.readTensor(stored);
  }

  async readInto(name: string, into: Uint8Array): Promise<void> {
    const { file, stored } = this.place(name);
    return file.readTensorInto(stored, into);
  }

  async readRange(name: string, begin: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const { file, stored } = this.place(name);
    return file.readRange(stored, begin, length);
  }

  readChunks(name: string, chunkBytes: number): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const { file, stored } = this.place(name);
    return file.readChunks(stored, chunkBytes);
  }

  async close(): Promise<void> {
    await Promise.all(this.opened.map(({ file }) => file.close()));
  }
}

async function readJsonFile(folder: Folder, name: string, capBytes: number): Promise<JsonObject> {
  const source = await folder.open(name);
  try {
    return await readJsonObject(source, capBytes);
  } finally {
    await source.close();
  }
}

interface Naming {
  toTower(stored: string): string;
  toStored(name: string): string;
}

/** What the names of a text tower's weights begin with in larger models, and those of its head. */
const towers = [
  { body: "language_model.model.", head: "language_model.lm_head." },
  { body: "model.language_model.", head: "lm_head." },
  // The base class of such a model.
  { body: "language_model.", head: "lm_head." },
] as const;

const insideBody =
  /^(?:embed_tokens|norm|embedding_norm|layers\.\d+|embed_tokens_per_layer|per_layer_model_projection|per_layer_projection_norm)\./;

/**
 * Names of files and ours. A model of more than text has its text tower below a prefix, and a base class (LlamaModel)
 * saves its weights without the "model." that its ...ForCausalLM puts before them; tensors go by the names that the tower
 * has by itself, as transformers maps them when it loads.
 */
function namingOf(stored: readonly string[]): Naming {
  const holds = (prefix: string) =>
    stored.some((name) => name.startsWith(prefix) && insideBody.test(name.slice(prefix.length)));
  const tower = towers.find(({ body }) => holds(body));
  if (tower) {
    const { body, head } = tower;
    return {
      toTower(name) {
        if (name.startsWith(body) && insideBody.test(name.slice(body.length)))
          return `model.${name.slice(body.length)}`;
        return name.startsWith(head) ? `lm_head.${name.slice(head.length)}` : name;
      },
      toStored(name) {
        if (name.startsWith("model.") && insideBody.test(name.slice("model.".length)))
          return body + name.slice("model.".length);
        return name.startsWith("lm_head.") ? head + name.slice("lm_head.".length) : name;
      },
    };
  }
  const bare =
    !stored.some((name) => name.startsWith("model.")) && stored.some((name) => insideBody.test(name));
  return {
    toTower: (name) => (bare && insideBody.test(name) ? `model.${name}` : name),
    // What is written has a head, and with it the longer names.
    toStored: (name) => name,
  };
}

/** Tensor name to shard file name. */
async function readIndex(folder: Folder, names: ReadonlySet<string>): Promise<Map<string, string>> {
  if (!names.has(INDEX_FILE)) throw new UserError(noWeights(folder.path, names));
  const where = `${folder.path}/${INDEX_FILE}`;
  const { weight_map: weightMap } = await readJsonFile(folder, INDEX_FILE, INDEX_CAP_BYTES);
  if (!isJsonObject(weightMap) || Object.keys(weightMap).length === 0) {
    throw new UserError(`${where}: expected a "weight_map" from tensor names to shard files.`);
  }
  const map = new Map<string, string>();
  const shards = new Set<string>();
  for (const [tensor, shard] of Object.entries(weightMap)) {
    if (typeof shard !== "string" || !isPlainShardName(shard)) {
      throw new UserError(
        `${where}: tensor "${tensor}" is said to be in ${JSON.stringify(shard)}; expected the plain name of a .safetensors file in this folder.`,
      );
    }
    map.set(tensor, shard);
    shards.add(shard);
  }
  if (shards.size > SHARDS_CAP)
    throw new UserError(`${where}: ${shards.size} shards are more than ${SHARDS_CAP}.`);
  const missing = [...shards].filter((shard) => !names.has(shard)).sort();
  if (missing.length > 0) {
    const more = missing.length > 3 ? ` and ${missing.length - 3} more` : "";
    throw new UserError(
      `${folder.path}: ${missing.length} of the ${shards.size} shards that ${INDEX_FILE} lists are missing: ${missing.slice(0, 3).join(", ")}${more}. Fetch the folder again.`,
    );
  }
  return map;
}

/** No separator, no parent, no control character: the name cannot lead out of the folder. */
function isPlainShardName(name: string): boolean {
  return /^[\w][\w.+-]*\.safetensors$/.test(name) && name.length <= 255;
}

function noConfig(path: string, names: ReadonlySet<string>): string {
  if (names.has("adapter_config.json")) {
    return `${path}: this is an adapter, not a model: give the base model with --model and this folder with --adapter.`;
  }
  const gguf = [...names].find((name) => name.endsWith(".gguf"));
  if (gguf) {
    return `${path}: there is no config.json, only a GGUF file (${gguf}); to use it as the model give the file itself, ${path}/${gguf}.`;
  }
  return `${path}: there is no config.json; expected a model folder in Hugging Face layout (config.json, *.safetensors, tokenizer.json).`;
}

function noWeights(path: string, names: ReadonlySet<string>): string {
  const list = [...names].sort();
  const pytorch = list.find(
    (name) => /\.(bin|pth|pt)$/.test(name) && !/^(training_args|optimizer)/.test(name),
  );
  if (pytorch) {
    return `${path}: the weights are there only as a PyTorch pickle (${pytorch}), which lowrank does not read because opening it can run code. Save the model again as safetensors (save_pretrained in transformers does).`;
  }
  const gguf = list.find((name) => name.endsWith(".gguf"));
  if (gguf) {
    return `${path}: the weights are there only as GGUF (${gguf}); to use them give the file itself as the model, ${path}/${gguf}.`;
  }
  const other = list.filter((name) => name.endsWith(".safetensors"));
  const found = other.length > 0 ? ` It has ${other.slice(0, 3).join(", ")}, which neither names.` : "";
  return `${path}: there are no weights: expected ${WEIGHTS_FILE} or ${INDEX_FILE}.${found}`;
}
