// A tokenizer.json as llama.cpp's metadata. It knows two of our kinds: "llama", SentencePiece's pieces with scores and
// bytes as a last resort, and "gpt2", byte-level BPE with merges whose first split of the text goes by a name
// (models/gguf/split.ts).
// Keys and token types: llama.cpp, gguf-py; names of splits: src/llama-vocab.cpp.

import type { GgufValue } from "../formats/gguf.ts";
import { isJsonObject, type JsonObject } from "../formats/json.ts";
import { flattenSteps, splitName } from "../models/gguf/split.ts";
import type { NamedTemplates, Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";

const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** A score below every merge's, for tokens that no merge makes. */
const unmergedScore = -1e6;

export interface TokenizerToExport {
  readonly tokenizer: Tokenizer;
  /** tokenizer.json */
  readonly json: JsonObject;
  /** Rows of the embedding: ids beyond the tokenizer's get names of their own. */
  readonly vocabularySize: number;
  readonly warn?: (message: string) => void;
  /** The model's config.json: its bos_token_id counts where the tokenizer names no such token. */
  readonly modelConfig?: JsonObject;
  /** Chat templates by name; by default the tokenizer's own. */
  readonly templates?: NamedTemplates;
  /** Overrides the name found for the first split. */
  readonly preTokenizer?: string;
  /** The model's architecture's own name for a tokenizer that falls back to bytes; SentencePiece's where there is none. */
  readonly bytesModel?: string;
}

/** Of Gemma 4's, which llama.cpp finds thoughts and calls by in what a model wrote. */
const shownTokens: ReadonlySet<string> = new Set([
  ...["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>"],
  ...["<|tool_response>", "<tool_response|>", '<|"|>'],
]);

type Metadata = Map<string, GgufValue>;

export function tokenizerMetadata(given: TokenizerToExport): Metadata {
  const { tokenizer, json, vocabularySize } = given;
  const model = isJsonObject(json.model) ? json.model : {};
  // Files of older tokenizers (GPT-2's) name no type: with merges it is this one.
  const type = model.type ?? (Array.isArray(model.merges) ? "BPE" : undefined);
  if (type !== "BPE" || !isJsonObject(model.vocab)) {
    throw new UserError(
      `${tokenizer.name}: tokenizer.json holds ${type === undefined ? "no model of a known kind" : `a ${JSON.stringify(type)} model`}; only BPE tokenizers can be exported to GGUF`,
    );
  }
  const vocabulary = readVocabulary(given, model.vocab);
  const metadata: Metadata = new Map();
  const sentencePiece = model.byte_fallback === true;
  const ofBytes = sentencePiece ? given.bytesModel : undefined;
  metadata.set("tokenizer.ggml.model", text(ofBytes ?? (sentencePiece ? "llama" : "gpt2")));
  const pre = given.preTokenizer ?? (sentencePiece ? "default" : splitName(tokenizer, json, given.warn));
  metadata.set("tokenizer.ggml.pre", text(pre));
  const merges = mergesOf(model, tokenizer.name);
  const types = vocabulary.types;
  metadata.set("tokenizer.ggml.tokens", { type: "array", of: "string", value: vocabulary.tokens });
  if (sentencePiece) {
    const ranks = new Map<string, number>();
    for (const [rank, [left, right]] of merges.entries()) {
      if (!ranks.has(left + right)) ranks.set(left + right, rank);
    }
    for (const [id, token] of vocabulary.tokens.entries()) {
      if (types[id] !== tokenType.normal) continue;
      if (/^<0x[0-9A-F]{2}>$/.test(token)) types[id] = tokenType.byte;
      else if (token === model.unk_token) types[id] = tokenType.unknown;
    }
    const unknown = typeof model.unk_token === "string" ? vocabulary.tokens.indexOf(model.unk_token) : -1;
    if (unknown >= 0) types[unknown] = tokenType.unknown;
    if (!types.includes(tokenType.byte)) {
      given.warn?.(
        `${tokenizer.name}: the tokenizer falls back to bytes but its vocabulary has no byte tokens (<0x00> and so on); llama.cpp ends with an error on characters that it does not know`,
      );
    }
    const scores = vocabulary.tokens.map((token, id) => {
      if (types[id] !== tokenType.normal) return 0;
      const rank = ranks.get(token);
      return rank === undefined ? unmergedScore : -rank;
    });
    metadata.set("tokenizer.ggml.scores", { type: "array", of: "f32", value: scores });
  }
  metadata.set("tokenizer.ggml.token_type", { type: "array", of: "i32", value: types });
  if (ofBytes !== undefined) {
    for (const [id, token] of vocabulary.tokens.entries())
      if (shownTokens.has(token)) types[id] = tokenType.userDefined;
    // Its merges are of the text itself, where "\u2581" stands for a space.
    const spelled = merges.map((pair) => pair.join(" "));
    metadata.set("tokenizer.ggml.merges", { type: "array", of: "string", value: spelled });
  } else if (!sentencePiece) {
    // A space inside a part of a merge is spelt as byte-level BPE spells it.
    const spelled = merges.map((pair) => pair.map((part) => part.replaceAll(" ", "\u0120")).join(" "));
    metadata.set("tokenizer.ggml.merges", { type: "array", of: "string", value: spelled });
  }
  addSpecialTokens(metadata, given, model);
  if (sentencePiece) metadata.set("tokenizer.ggml.add_space_prefix", flag(prependsSpace(json)));
  addChatTemplates(metadata, given.templates ?? tokenizer.chatTemplates);
  metadata.forEach((value, key) => {
    if (value.type === "u32" && value.value >= vocabularySize)
      throw new UserError(`${tokenizer.name}: ${key} is ${value.value}, beyond the model's vocabulary`);
  });
  return metadata;
}

/** The default under its usual key, others under theirs with a list of their names, as gguf-py writes them. */
function addChatTemplates(metadata: Metadata, templates: NamedTemplates): void {
  const { default: ordinary, ...others } = templates;
  const names: string[] = [];
  for (const [name, source] of Object.entries(others)) {
    const key = name.replace(/[^A-Za-z0-9]/g, "_");
    if (names.includes(key)) continue;
    names.push(key);
    metadata.set(`tokenizer.chat_template.${key}`, text(source));
  }
  if (names.length > 0)
    metadata.set("tokenizer.chat_templates", { type: "array", of: "string", value: names });
  if (ordinary !== undefined) metadata.set("tokenizer.chat_template", text(ordinary));
}

function addSpecialTokens(
  metadata: Metadata,
  { tokenizer, modelConfig, vocabularySize }: TokenizerToExport,
  model: JsonObject,
): void {
  const id = (key: string, value: number | undefined) => {
    if (value !== undefined) metadata.set(`tokenizer.ggml.${key}_token_id`, { type: "u32", value });
  };
  const text = modelConfig?.text_config;
  const named = modelConfig?.bos_token_id ?? (isJsonObject(text) ? text.bos_token_id : undefined);
  const isId = typeof named === "number" && Number.isInteger(named) && named >= 0 && named < vocabularySize;
  id("bos", tokenizer.bosId ?? (isId ? named : undefined));
  id("eos", tokenizer.eosId);
  // The end of a turn, where the text as a whole ends with another token.
  id("eot", tokenizer.eosIds[1]);
  const unknown = tokenizer.specialTokens.unk_token ?? model.unk_token;
  id("unknown", typeof unknown === "string" ? tokenizer.idOf(unknown) : undefined);
  id("padding", tokenizer.padId);
  metadata.set("tokenizer.ggml.add_bos_token", flag(tokenizer.addsBos));
  metadata.set("tokenizer.ggml.add_eos_token", flag(false));
}

function readVocabulary(
  { tokenizer, json, vocabularySize }: TokenizerToExport,
  vocab: JsonObject,
): { tokens: string[]; types: number[] } {
  const tokens: (string | undefined)[] = new Array(vocabularySize).fill(undefined);
  const types = new Array<number>(vocabularySize).fill(tokenType.unused);
  const put = (id: unknown, token: string, type: number) => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= vocabularySize) {
      throw new UserError(
        `${tokenizer.name}: token ${JSON.stringify(token)} has id ${id}, outside the model's vocabulary of ${vocabularySize}`,
      );
    }
    tokens[id] = token;
    types[id] = type;
  };
  for (const [token, id] of Object.entries(vocab)) put(id, token, tokenType.normal);
  const added = Array.isArray(json.added_tokens) ? json.added_tokens : [];
  for (const token of added) {
    if (!isJsonObject(token) || typeof token.content !== "string") continue;
    const isControl = token.special === true || looksSpecial(token.content);
    put(token.id, token.content, isControl ? tokenType.control : tokenType.userDefined);
  }
  return { tokens: tokens.map((token, id) => token ?? `[PAD${id}]`), types };
}

/** Spelt as control tokens are, whatever the tokenizer says: Qwen's <|fim_prefix|>, for one, are not marked special. */
function looksSpecial(token: string): boolean {
  return (token.startsWith("<|") && token.endsWith("|>")) || token === "<pad>" || token === "<mask>";
}

function mergesOf(model: JsonObject, name: string): [string, string][] {
  if (!Array.isArray(model.merges)) throw new UserError(`${name}: tokenizer.json has no merges`);
  return model.merges.map((merge) => {
    const parts: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    if (Array.isArray(parts) && parts.length === 2 && parts.every((part) => typeof part === "string"))
      return parts as [string, string];
    throw new UserError(`${name}: tokenizer.json: ${JSON.stringify(merge)} is no merge of two parts`);
  });
}

/** Whether a text's first word gets a space before it. */
function prependsSpace(json: JsonObject): boolean {
  const normalizers = flattenSteps(json.normalizer, "normalizers");
  if (normalizers.some((step) => step.type === "Prepend")) return true;
  return flattenSteps(json.pre_tokenizer, "pretokenizers").some(
    (step) => step.type === "Metaspace" && (step.prepend_scheme ?? "always") !== "never",
  );
}

function text(value: string): GgufValue {
  return { type: "string", value };
}

function flag(value: boolean): GgufValue {
  return { type: "bool", value };
}
