// A model folder's configuration as its tensors have it. config.json says what the model is; where the weights beside
// it say otherwise (a stored head that is not the tied embedding), the weights are what was trained, and transformers
// 5.24 goes by them too. Whoever opens a folder reads its configuration here, not from config.json alone.

import type { ModelFolder } from "../formats/model-folder.ts";
import { fromSafetensorsDType, type TensorEntry } from "../formats/safetensors.ts";
import type { TensorToWrite } from "../formats/safetensors-writer.ts";
import { decodeToF32, dtypeBytes } from "../tensor/dtype.ts";
import { UserError } from "../util/errors.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { embeddingName, headName, weightSpecs } from "./decoder-weights.ts";
import { readModelConfig } from "./index.ts";
import { textTowerOf, withTextValues } from "./text-tower.ts";

const pieceElements = 4 * 2 ** 20;
/** Names in the note of unused tensors. */
const shownNames = 3;

/**
 * The folder's configuration. `notes` tell what the weights say against config.json. UserError for a folder whose head
 * is nowhere.
 */
export async function readFolderConfig(folder: ModelFolder): Promise<DecoderConfig> {
  const config = readModelConfig(folder.config);
  const [embedding, head] = [`${embeddingName}.weight`, `${headName}.weight`].map((name) =>
    folder.tensors.get(name),
  );
  if (!config.tied && !head && embedding) {
    const classes = Array.isArray(folder.config.architectures) ? folder.config.architectures.join(", ") : "";
    throw new UserError(
      `${folder.path}: there is no ${headName}.weight, and config.json does not tie the head to the embedding${classes ? ` (it was saved as ${classes})` : ""}. A base class has no head: save the model from its ...ForCausalLM class, or set "tie_word_embeddings": true if its head is the embedding.`,
    );
  }
  const untied = config.tied && embedding && head && !(await equalTensors(folder, embedding, head));
  const read = untied ? { ...config, tied: false } : config;
  const notes = [...config.notes];
  if (untied) {
    notes.push(
      `config.json ties the head to the embedding, but the weights hold a ${headName}.weight of its own, which differs: it is used, as transformers does. "tie_word_embeddings": false says the same`,
    );
  }
  const unused = unusedTensors(folder, read);
  if (unused.length > 0) {
    const more = unused.length > shownNames ? ` and ${unused.length - shownNames} more` : "";
    notes.push(
      `${unused.length} tensors of the weights have no place in this model and are not used: ${unused.slice(0, shownNames).join(", ")}${more}`,
    );
  }
  return { ...read, notes };
}

/** config.json for a model of this configuration: the tie flag is what the weights are. */
export function withTieFlag<T extends Readonly<Record<string, unknown>>>(json: T, config: DecoderConfig): T {
  const said = textTowerOf(json)?.json ?? json;
  return config.tied === (said.tie_word_embeddings ?? config.tied)
    ? json
    : withTextValues(json, { tie_word_embeddings: config.tied });
}

/** Tensors of a folder that belong to no part of its text model, to be written beside it as they are. */
export function otherTowers(folder: ModelFolder, config: DecoderConfig): TensorToWrite[] {
  if (!config.tower) return [];
  return strangers(folder, config)
    .filter((name) => !insideTower(name))
    .map((name) => {
      const { dtype, shape } = folder.tensors.get(name)!;
      return {
        name: folder.storedName(name),
        dtype,
        shape,
        data: () => folder.readChunks(name, 4 * pieceElements),
      };
    });
}

/** Whether two stored tensors are the same numbers. */
async function equalTensors(folder: ModelFolder, a: TensorEntry, b: TensorEntry): Promise<boolean> {
  const [typeA, typeB] = [fromSafetensorsDType(a.dtype), fromSafetensorsDType(b.dtype)];
  if (!typeA || !typeB || a.shape.some((size, i) => size !== b.shape[i])) return false;
  const [sizeA, sizeB] = [dtypeBytes[typeA], dtypeBytes[typeB]];
  const total = a.sizeBytes / sizeA;
  for (let start = 0; start < total; start += pieceElements) {
    const count = Math.min(pieceElements, total - start);
    const [bytesA, bytesB] = [
      await folder.readRange(a.name, start * sizeA, count * sizeA),
      await folder.readRange(b.name, start * sizeB, count * sizeB),
    ];
    const [valuesA, valuesB] = [decodeToF32(bytesA, typeA), decodeToF32(bytesB, typeB)];
    if (valuesA.some((value, i) => value !== valuesB[i])) return false;
  }
  return true;
}

/** Stored tensors that are of no use: towers of a larger model, and heads for other tasks, are no accident. */
function unusedTensors(folder: ModelFolder, config: DecoderConfig): string[] {
  const found = strangers(folder, config).filter((name) => !name.startsWith("mtp."));
  return config.tower ? found.filter(insideTower) : found;
}

function insideTower(name: string): boolean {
  return /^(?:model\.(?:embed_tokens|norm|layers|embed_tokens_per_layer|per_layer_model_projection|per_layer_projection_norm)\.|lm_head\.)/.test(
    name,
  );
}

/** Stored tensors that no weight reads: neither a weight, nor what decodes one, nor a table that follows from config.json. */
function strangers(folder: ModelFolder, config: DecoderConfig): string[] {
  const known = new Set(weightSpecs(config).map((spec) => spec.name));
  if (config.tied) known.add(`${headName}.weight`);
  // Published files hold what layers do without that attend to another's keys.
  const shared = config.layers.flatMap(({ keysFrom }, i) =>
    keysFrom === undefined ? [] : [`model.layers.${i}.self_attn.`],
  );
  const spare = (name: string) =>
    /\.(?:[kv]_proj|[kv]_norm)\./.test(name) && shared.some((layer) => name.startsWith(layer));
  return [...folder.tensors.keys()].filter((name) => {
    if (spare(name)) return false;
    if (known.has(name) || name.endsWith(".rotary_emb.inv_freq")) return false;
    const weight = /^(.*\.weight)\./.exec(name)?.[1];
    return weight === undefined || !known.has(weight);
  });
}
