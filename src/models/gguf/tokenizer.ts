// tokenizer.json and tokenizer_config.json of a GGUF file's metadata: the inverse of publish/gguf-tokenizer.ts. Three kinds:
// "gpt2", byte-level BPE with its merges, "llama", SentencePiece's pieces whose scores give the merges, and "gemma4", such
// pieces with their merges.

import { type GgufFile, ggufText } from "../../formats/gguf.ts";
import type { JsonObject } from "../../formats/json.ts";
import { UserError } from "../../util/errors.ts";
import { splitNamed } from "./split.ts";

const tokenType = { unknown: 2, control: 3, userDefined: 4, unused: 5 } as const;

export interface TokenizerOfGguf {
  readonly tokenizer: JsonObject;
  readonly tokenizerConfig: JsonObject;
  /** Tokens that end an answer. */
  readonly ends: readonly number[];
}

/** UserError for a tokenizer of another kind, and for metadata that is not whole. */
export function tokenizerOfGguf(file: GgufFile): TokenizerOfGguf {
  const value = (key: string) => file.metadata.get(`tokenizer.${key}`)?.value;
  const fail = (message: string): never => {
    throw new UserError(`${file.path}: ${message}`);
  };
  const kind = value("ggml.model");
  if (kind !== "gpt2" && kind !== "llama" && kind !== "gemma4") {
    fail(
      kind === undefined
        ? "it holds no tokenizer; use the model's own folder"
        : `its tokenizer is of kind ${ggufText(kind)}; supported are gpt2 (byte-level BPE), llama (SentencePiece) and gemma4 (BPE that falls back to bytes)`,
    );
  }
  const texts = (key: string): readonly string[] => {
    const found = value(key);
    if (Array.isArray(found) && found.every((each) => typeof each === "string")) return found as string[];
    return fail(`metadata tokenizer.${key} should be a list of texts`);
  };
  const numbers = (key: string, count: number): readonly number[] => {
    const found = value(key);
    if (Array.isArray(found) && found.length === count && found.every((each) => typeof each === "number"))
      return found as number[];
    return fail(`metadata tokenizer.${key} should be a list of ${count} numbers`);
  };
  const tokens = texts("ggml.tokens");
  const types =
    value("ggml.token_type") === undefined ? tokens.map(() => 1) : numbers("ggml.token_type", tokens.length);
  const idOf = (name: string): number | undefined => {
    const id = value(`ggml.${name}_token_id`);
    return typeof id === "number" && Number.isInteger(id) && id >= 0 && id < tokens.length ? id : undefined;
  };
  const named = (name: string) => {
    const id = idOf(name);
    return id === undefined ? {} : { [`${name === "unknown" ? "unk" : name}_token`]: tokens[id] };
  };
  const vocab: Record<string, number> = {};
  for (const [id, token] of tokens.entries()) {
    if (types[id] === tokenType.unused || Object.hasOwn(vocab, token)) continue;
    Object.defineProperty(vocab, token, { value: id, enumerable: true, writable: true, configurable: true });
  }
  const added = tokens.flatMap((content, id) => {
    const isControl = types[id] === tokenType.control || types[id] === tokenType.unknown;
    if (!isControl && types[id] !== tokenType.userDefined) return [];
    const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
    return [{ id, content, ...plain, special: isControl }];
  });
  const bos = idOf("bos");
  const usuallyBegins =
    kind === "llama" || value("ggml.pre") === "llama-bpe" || value("ggml.pre") === "tekken";
  const addsBos = (value("ggml.add_bos_token") ?? usuallyBegins) === true && bos !== undefined;
  const begin = addsBos ? [{ SpecialToken: { id: tokens[bos]!, type_id: 0 } }] : [];
  const common = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    post_processor: {
      type: "TemplateProcessing",
      single: [...begin, { Sequence: { id: "A", type_id: 0 } }],
      pair: [...begin, { Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: addsBos
        ? { [tokens[bos]!]: { id: tokens[bos]!, ids: [bos], tokens: [tokens[bos]!] } }
        : {},
    },
  };
  /** As the file has them, or as pieces' scores give them. */
  const merges = () => {
    if (kind === "gemma4") return texts("ggml.merges").map((merge) => merge.split(" "));
    const found = mergesOf(vocab, numbers("ggml.scores", tokens.length), types);
    return (
      found ??
      fail(
        "its tokenizer's pieces are too long to find what each is made of; use the model's own folder (tokenizer.json) in place of the file",
      )
    );
  };
  const tokenizer: JsonObject =
    kind === "gpt2"
      ? {
          ...common,
          ...byteLevel(vocab, texts("ggml.merges"), String(value("ggml.pre") ?? "default"), file.path),
        }
      : {
          ...common,
          ...sentencePiece(vocab, merges(), {
            prepends: value("ggml.add_space_prefix") !== false && kind === "llama",
            unknown: tokens[types.indexOf(tokenType.unknown)] ?? null,
          }),
        };
  const ends = [...new Set(["eos", "eot"].flatMap((name) => idOf(name) ?? []))];
  return {
    tokenizer,
    tokenizerConfig: {
      tokenizer_class: "PreTrainedTokenizerFast",
      add_bos_token: addsBos,
      ...{ ...named("bos"), ...named("eos"), ...named("unknown") },
      ...(idOf("padding") === undefined ? {} : { pad_token: tokens[idOf("padding")!] }),
      ...templatesOf(value),
    },
    ends,
  };
}

function templatesOf(value: (key: string) => unknown): JsonObject {
  const ordinary = value("chat_template");
  const names = value("chat_templates");
  const others = (Array.isArray(names) ? names : []).flatMap((name) => {
    const template = value(`chat_template.${String(name)}`);
    return typeof template === "string" ? [{ name: String(name), template }] : [];
  });
  if (typeof ordinary !== "string") return others.length > 0 ? { chat_template: others } : {};
  return {
    chat_template: others.length > 0 ? [{ name: "default", template: ordinary }, ...others] : ordinary,
  };
}

function byteLevel(vocab: JsonObject, merges: readonly string[], pre: string, where: string): JsonObject {
  const { step, ignoreMerges } = splitNamed(pre, where);
  const last = { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true };
  const model = { type: "BPE", dropout: null, unk_token: null, fuse_unk: false, byte_fallback: false };
  return {
    normalizer: null,
    pre_tokenizer: step,
    decoder: last,
    model: { ...model, ignore_merges: ignoreMerges, vocab, merges },
  };
}

function sentencePiece(
  vocab: Readonly<Record<string, number>>,
  merges: readonly (readonly string[])[],
  { prepends, unknown }: { readonly prepends: boolean; readonly unknown: string | null },
): JsonObject {
  const replace = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const back = { type: "Replace", pattern: { String: "▁" }, content: " " };
  return {
    normalizer: {
      type: "Sequence",
      normalizers: [...(prepends ? [{ type: "Prepend", prepend: "▁" }] : []), replace],
    },
    pre_tokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        back,
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(prepends ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      ...{ type: "BPE", dropout: null, unk_token: unknown, fuse_unk: true, byte_fallback: true },
      ...{ ignore_merges: false, vocab, merges },
    },
  };
}

/** Below this no merge of ours makes a piece (publish/gguf-tokenizer.ts). */
const unmergedScore = -1e6;

/** Characters that are looked at, and of pairs found: a hundred times those of the largest public vocabularies. */
const mostLooked = 2 ** 31;
const mostFound = 2 ** 26;

/** Every way to make a piece of two, the best pieces first; undefined where there are too many to be told. */
function mergesOf(
  vocab: Readonly<Record<string, number>>,
  scores: readonly number[],
  types: readonly number[],
): [string, string][] | undefined {
  let [looked, kept] = [0, 0];
  const found: { readonly score: number; readonly id: number; readonly pair: [string, string] }[] = [];
  for (const [piece, id] of Object.entries(vocab)) {
    if (types[id] !== 1 || scores[id]! <= unmergedScore) continue;
    looked += piece.length ** 2;
    if (looked > mostLooked || kept > mostFound) return undefined;
    const letters = [...piece];
    const pairs: [string, string][] = [];
    for (let cut = 1, left = ""; cut < letters.length; cut++) {
      left += letters[cut - 1]!;
      const right = piece.slice(left.length);
      if (Object.hasOwn(vocab, left) && Object.hasOwn(vocab, right)) pairs.push([left, right]);
    }
    pairs.sort((a, b) => vocab[a[0]]! - vocab[b[0]]! || vocab[a[1]]! - vocab[b[1]]!);
    kept += pairs.length * piece.length;
    for (const pair of pairs) found.push({ score: scores[id]!, id, pair });
  }
  return found.sort((a, b) => b.score - a.score || a.id - b.id).map(({ pair }) => pair);
}
