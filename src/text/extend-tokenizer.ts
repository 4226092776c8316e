// Adds tokens to a tokenizer: to the JSON of its files, as transformers' add_tokens writes them. Which tokens, from a
// file of the user's; what becomes of the model's tables is the callers' affair.

import { UserError } from "../util/errors.ts";

type JsonRecord = Readonly<Record<string, unknown>>;

const tokensCap = 2 ** 17;
const lengthCap = 256;

/** Tokens of a file: a JSON list of texts, or one token a line. UserError for what is neither, or too much. */
export function parseTokenList(text: string, where: string): string[] {
  const trimmed = text.trim();
  if (/^\{\s*["}]/.test(trimmed)) {
    throw new UserError(
      `${where}: a JSON object; expected tokens, one a line or as a JSON list, such as ["<a>", "<b>"]`,
    );
  }
  const tokens = trimmed.startsWith("[")
    ? jsonList(trimmed, where)
    : text.split(/\r?\n/).filter((line) => line.trim() !== "");
  if (tokens.length === 0)
    throw new UserError(`${where}: expected tokens, one a line or as a JSON list; found none`);
  if (tokens.length > tokensCap)
    throw new UserError(`${where}: ${tokens.length} tokens; at most ${tokensCap} can be added`);
  for (const token of tokens) {
    if (token.length <= lengthCap) continue;
    throw new UserError(
      `${where}: the token ${JSON.stringify(token.slice(0, 40))}... has ${token.length} characters; at most ${lengthCap}. Is this a file of tokens, one a line?`,
    );
  }
  return [...new Set(tokens)];
}

function jsonList(text: string, where: string): string[] {
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${where}: not a JSON list of tokens: ${(error as Error).message}`);
  }
  if (!Array.isArray(list) || !list.every((item) => typeof item === "string" && item !== ""))
    throw new UserError(`${where}: expected a JSON list of tokens, each a text`);
  return list as string[];
}

export interface ExtendedTokenizer {
  /** tokenizer.json and tokenizer_config.json. */
  readonly tokenizer: JsonRecord;
  readonly config: JsonRecord;
  /** Tokens that were new. */
  readonly added: readonly string[];
}

/** tokenizer.json and tokenizer_config.json with these tokens, after the last id that is taken. */
export function extendTokenizer(
  tokenizer: JsonRecord,
  config: JsonRecord,
  tokens: readonly string[],
): ExtendedTokenizer {
  const listed = Array.isArray(tokenizer.added_tokens) ? (tokenizer.added_tokens as JsonRecord[]) : [];
  const vocabulary = vocabularyOf(tokenizer.model);
  const decoder = isRecord(config.added_tokens_decoder) ? config.added_tokens_decoder : undefined;
  const declared = Object.entries(decoder ?? {}).map(([id, token]) => ({
    id: Number(id),
    ...(token as object),
  }));
  const taken = [...listed, ...declared] as { readonly id: number; readonly content?: unknown }[];
  const known = new Set<unknown>([...vocabulary.keys(), ...taken.map(({ content }) => content)]);
  const added = tokens.filter((token) => !known.has(token));
  let next = 0;
  for (const id of vocabulary.values()) next = Math.max(next, id + 1);
  for (const { id } of taken) if (Number.isSafeInteger(id)) next = Math.max(next, id + 1);
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: true, special: false };
  const entries = added.map((content, i) => ({ id: next + i, content, ...flags }));
  const inDecoder = entries.map(({ id, ...token }) => [String(id), token]);
  return {
    tokenizer: { ...tokenizer, added_tokens: [...listed, ...entries] },
    config: decoder
      ? { ...config, added_tokens_decoder: { ...decoder, ...Object.fromEntries(inDecoder) } }
      : config,
    added,
  };
}

/** model.vocab of tokenizer.json: an object of ids, or a list of [token, score]. */
function vocabularyOf(model: unknown): Map<string, number> {
  const vocab = isRecord(model) ? model.vocab : undefined;
  if (Array.isArray(vocab))
    return new Map(vocab.map((entry, id) => [String(Array.isArray(entry) ? entry[0] : entry), id]));
  return new Map(isRecord(vocab) ? (Object.entries(vocab) as [string, number][]) : []);
}

function isRecord(value: unknown): value is JsonRecord {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
