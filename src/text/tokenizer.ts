// Text to token ids and back: our face on @huggingface/tokenizers, plus what training needs to know about a
// tokenizer: which ids begin and end a text, which chat template belongs to it, and a hash for caches.
// Built from parsed JSON, so it runs in a browser; load-tokenizer.node.ts reads a model folder, streaming-decode.ts
// decodes while ids arrive, chat-template.ts turns conversations into text.

import { Tokenizer as Engine } from "@huggingface/tokenizers";
import { UserError } from "../util/errors.ts";
import { findAddedTokensAsRust } from "./added-tokens.ts";
import { contentHash } from "./content-hash.ts";
import { type FastEncoder, fastEncoder } from "./fast-encoder.ts";
import { readSpecialTokens, type SpecialTokens } from "./special-tokens.ts";
import { tokenBound } from "./token-bound.ts";
import { type PatternGuard, patternGuard, refuseDeepFiles, refuseHugeIds } from "./tokenizer-bounds.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";
import type { LibraryPreTokenizer } from "./word-splitter.ts";

/** Jinja sources by name: "default" for conversations, "tool_use" for those with tools, others for who asks by name. */
export type NamedTemplates = Readonly<Record<string, string>>;

const LONE_SURROGATE = /\p{Surrogate}/u;
const LONE_SURROGATES = new RegExp(LONE_SURROGATE, "gu");

export class Tokenizer {
  readonly name: string;
  /** Highest id + 1. The model's embedding may have more rows. */
  readonly vocabSize: number;
  /** Names of special tokens as chat templates see them: bos_token, eos_token, unk_token, ... */
  readonly specialTokens: Readonly<Record<string, string>>;
  readonly bosId: number | undefined;
  /** The id that training appends at the end of a text. */
  readonly eosId: number;
  /** Every id that ends generation; `eosId` first. */
  readonly eosIds: readonly number[];
  readonly padId: number | undefined;
  /** What the post-processor puts before a text (usually the BOS id or nothing). */
  readonly prefixIds: readonly number[];
  /** Jinja sources of the model's own chat templates; empty when it has none. */
  readonly chatTemplates: NamedTemplates;
  /** Hex; equal for equal tokenizers, templates included. Not cryptographic. */
  readonly hash: string;
  /** A lower bound of a text's tokens, from its bytes alone; 0 where the tokenizer allows none. */
  readonly fewestTokens: (text: string) => number;
  private readonly engine: Engine;
  private readonly files: TokenizerFiles;
  private readonly guarded: PatternGuard;
  private readonly fast: FastEncoder | undefined;
  /** What the post-processor puts around a text; undefined where it does more. */
  private readonly around:
    | { readonly before: readonly number[]; readonly after: readonly number[] }
    | undefined;

  constructor(files: TokenizerFiles) {
    this.name = files.name;
    refuseDeepFiles(files);
    const config = asObject(files.tokenizerConfig ?? {}, `${files.name}: tokenizer_config.json`);
    const json = withAddedTokens(asObject(files.tokenizer, `${files.name}: tokenizer.json`), config);
    refuseHugeIds(json, files.name);
    this.guarded = patternGuard(json, files.name);
    try {
      const opened = openEngine(json, config);
      this.engine = opened.engine;
      this.fast = opened.fast;
      this.around = this.fast && this.findAround();
    } catch (error) {
      throw new UserError(
        `${files.name}: tokenizer.json cannot be used: ${(error as Error).message}. Expected the file that transformers' save_pretrained writes.`,
      );
    }
    this.files = { ...files, tokenizer: json, tokenizerConfig: config };
    this.vocabSize = vocabSizeOf(this.engine);
    this.fewestTokens = tokenBound(json);
    this.prefixIds = this.findPrefix();
    const special: SpecialTokens = readSpecialTokens(files, {
      idOf: (token) => this.engine.token_to_id(token),
      tokenOf: (id) => this.engine.id_to_token(id),
      prefixIds: this.prefixIds,
    });
    this.specialTokens = special.names;
    this.bosId = special.bosId;
    this.eosId = special.eosIds[0]!;
    this.eosIds = special.eosIds;
    this.padId = special.padId;
    this.chatTemplates = templatesOf(files);
    const { additionalTemplates } = files;
    const further =
      additionalTemplates && Object.keys(additionalTemplates).length > 0 ? [additionalTemplates] : [];
    this.hash = contentHash(JSON.stringify([json, config, special, this.chatTemplate ?? null, ...further]));
  }

  /** The template for conversations without tools. */
  get chatTemplate(): string | undefined {
    return this.chatTemplates.default;
  }

  /** The decoder's part of tokenizer.json; equal texts decode equal tokens alike. */
  get decoderText(): string {
    return JSON.stringify((this.files.tokenizer as JsonRecord).decoder ?? null);
  }

  /** tokenizer.json's added tokens by id. */
  get addedTokens(): ReadonlyMap<number, { readonly content: string; readonly special: boolean }> {
    return this.engine.get_added_tokens_decoder();
  }

  /** What a tokenizer that only decodes is made of, plain data: all but the merges, which are most of it. */
  get decodingFiles(): TokenizerFiles {
    const json = this.files.tokenizer as JsonRecord;
    const model = json.model as JsonRecord;
    return {
      ...this.files,
      tokenizer: { ...json, model: "merges" in model ? { ...model, merges: [] } : model },
    };
  }

  /** Whether the tokenizer itself puts a BOS token before a text. */
  get addsBos(): boolean {
    return this.prefixIds.length > 0;
  }

  /** Token ids of a text. With `addSpecialTokens` the post-processor runs: BOS where the tokenizer adds one. */
  encode(text: string, options: { addSpecialTokens?: boolean } = {}): number[] {
    // JSON may hold half a surrogate pair, which has no UTF-8 form.
    const wellFormed = LONE_SURROGATE.test(text) ? text.replace(LONE_SURROGATES, "\ufffd") : text;
    const ids = this.encodeGuarded(wellFormed, options.addSpecialTokens ?? true);
    for (const id of ids) {
      if (id === undefined) {
        throw new UserError(
          `${this.name}: the tokenizer has no token for a part of ${JSON.stringify(text.slice(0, 40))} and no unknown token.`,
        );
      }
    }
    return ids;
  }

  /** Text of token ids. Ids that no token has (the padding rows of an embedding) are passed over. */
  decode(ids: readonly number[], options: { skipSpecialTokens?: boolean } = {}): string {
    const known = ids.filter((id) => this.engine.id_to_token(id) !== undefined);
    if (known.length === 0) return "";
    const skip = options.skipSpecialTokens ?? true;
    if (skip) {
      const kept = known.filter((id) => !this.isSpecial(id));
      if (kept.length === 0) return "";
      return this.decodeKnown(kept);
    }
    return this.decodeKnown(known);
  }

  /** The token's own spelling in the vocabulary, undefined where the id has none. */
  tokenOf(id: number): string | undefined {
    return this.engine.id_to_token(id);
  }

  idOf(token: string): number | undefined {
    return this.engine.token_to_id(token);
  }

  private specialIds: ReadonlySet<number> | undefined;

  /** Whether the token stands in tokenizer.json's list of added tokens: markup, special or not. */
  isAdded(id: number): boolean {
    return this.engine.get_added_tokens_decoder().has(id);
  }

  isSpecial(id: number): boolean {
    this.specialIds ??= new Set(
      [...this.engine.get_added_tokens_decoder()]
        .filter(([, token]) => token.special)
        .map(([tokenId]) => tokenId),
    );
    return this.specialIds.has(id);
  }

  // The clean-up of spaces before punctuation changes text that the model never saw: always off.
  private decodeKnown(ids: number[]): string {
    return this.guarded(ids.length, () =>
      this.engine.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false }),
    );
  }

  private encodeGuarded(text: string, addSpecialTokens: boolean): number[] {
    const { engine, fast, around } = this;
    return this.guarded(text.length, () => {
      if (!fast || (addSpecialTokens && !around))
        return engine.encode(text, { add_special_tokens: addSpecialTokens }).ids;
      const ids = fast.encode(text);
      return addSpecialTokens ? [...around!.before, ...ids, ...around!.after] : ids;
    });
  }

  private findAround(): Tokenizer["around"] {
    const { post_processor: process } = this.engine as unknown as EngineParts;
    if (!process) return { before: [], after: [] };
    const probe = "\u0000text";
    const tokens = process([probe], null, true).tokens;
    const at = tokens.indexOf(probe);
    const ids = tokens.map((token) => this.engine.token_to_id(token));
    const [before, after] = [ids.slice(0, at), ids.slice(at + 1)];
    if (at < 0 || [...before, ...after].some((id) => id === undefined)) return undefined;
    return { before, after } as Tokenizer["around"];
  }

  private findPrefix(): number[] {
    const probe = "a";
    const bare = this.encodeGuarded(probe, false);
    const full = this.encodeGuarded(probe, true);
    for (let start = 0; start + bare.length <= full.length; start++) {
      if (bare.every((id, i) => full[start + i] === id)) return full.slice(0, start);
    }
    return [];
  }
}

type JsonRecord = Record<string, unknown>;

/** What of the library's inside is used here. */
interface EngineParts {
  readonly pre_tokenizer: LibraryPreTokenizer | null;
  readonly post_processor:
    | ((tokens: string[], pair: null, addSpecialTokens: boolean) => { readonly tokens: readonly string[] })
    | null;
}

/** The library, and what encodes in its place where it can. The library is then spared the merges, which it reads slowly. */
function openEngine(json: JsonRecord, config: JsonRecord): { engine: Engine; fast?: FastEncoder } {
  const model = (json.model ?? {}) as JsonRecord;
  if ((model.type ?? "BPE") === "BPE" && Array.isArray(model.merges)) {
    const engine = new Engine({ ...json, model: { ...model, merges: [] } }, config);
    const pieces = findAddedTokensAsRust(engine, model.vocab);
    const fast = fastEncoder(json, (engine as unknown as EngineParts).pre_tokenizer, pieces);
    if (fast) return { engine, fast };
  }
  const engine = new Engine(json, config);
  findAddedTokensAsRust(engine, model.vocab);
  return { engine };
}

function asObject(value: unknown, where: string): JsonRecord {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new UserError(`${where}: expected a JSON object.`);
  }
  return value as JsonRecord;
}

/** tokenizer.json with the tokens that only tokenizer_config.json declares; where both speak, tokenizer.json wins. */
function withAddedTokens(json: JsonRecord, config: JsonRecord): JsonRecord {
  const listed = Array.isArray(json.added_tokens) ? (json.added_tokens as (JsonRecord | null)[]) : [];
  const ids = new Set(listed.map((token) => token?.id));
  const contents = new Set(listed.map((token) => token?.content));
  const declared = config.added_tokens_decoder;
  const extra: JsonRecord[] = [];
  if (typeof declared === "object" && declared !== null) {
    for (const [key, token] of Object.entries(declared as Record<string, JsonRecord>)) {
      const id = Number(key);
      if (!Number.isSafeInteger(id) || id < 0 || typeof token?.content !== "string") continue;
      if (!ids.has(id) && !contents.has(token.content)) extra.push({ ...token, id });
    }
  }
  return { ...json, added_tokens: [...listed, ...extra] };
}

function vocabSizeOf(engine: Engine): number {
  let highest = -1;
  for (const id of engine.get_vocab(true).values()) if (id > highest) highest = id;
  return highest + 1;
}

/**
 * Separate files where there are any, as transformers takes them; else chat_template of tokenizer_config.json: a string,
 * or a list of {name, template}.
 */
export function templatesOf(files: Omit<TokenizerFiles, "tokenizer">): NamedTemplates {
  const { name, chatTemplate, additionalTemplates } = files;
  const additional = Object.entries(additionalTemplates ?? {});
  if (chatTemplate !== undefined || additional.length > 0) {
    return Object.fromEntries([
      ...(chatTemplate === undefined ? [] : [["default", chatTemplate]]),
      ...additional,
    ]) as NamedTemplates;
  }
  const config = asObject(files.tokenizerConfig ?? {}, `${name}: tokenizer_config.json`);
  const template = config.chat_template;
  if (template === undefined || template === null) return {};
  if (typeof template === "string") return { default: template };
  if (!Array.isArray(template)) {
    throw new UserError(`${name}: tokenizer_config.json: "chat_template" must be a string or a list.`);
  }
  const named = template.map((entry: unknown) => {
    const { name: key, template: source } = (entry ?? {}) as { name?: unknown; template?: unknown };
    if (typeof key === "string" && typeof source === "string") return [key, source] as const;
    throw new UserError(
      `${name}: tokenizer_config.json: each entry of "chat_template" needs a "name" and a "template", both strings.`,
    );
  });
  return Object.fromEntries(named);
}
