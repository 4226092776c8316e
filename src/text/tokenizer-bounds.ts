// What keeps a damaged or hostile tokenizer.json from computing without end: ids so high that a table by id would fill
// the memory, values nested so deeply that walking them ends the process, and patterns that backtrack. Not here: what the file means (tokenizer.ts).

import { UserError } from "../util/errors.ts";
import { isNestedBeyond, NESTING_CAP } from "../util/nesting.ts";
import { TimeLimitError, withinTime } from "../util/time-limit.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";

/** The largest vocabularies in use have some 2^18 tokens, and their tables are arrays by id. */
export const ID_CAP = 2 ** 22;

const fileNames = {
  tokenizer: "tokenizer.json",
  tokenizerConfig: "tokenizer_config.json",
  specialTokensMap: "special_tokens_map.json",
  generationConfig: "generation_config.json",
  modelConfig: "config.json",
} satisfies Partial<Record<keyof TokenizerFiles, string>>;

/** Throws a UserError where one of the files holds lists in lists without end. */
export function refuseDeepFiles(files: TokenizerFiles): void {
  for (const key of Object.keys(fileNames) as (keyof typeof fileNames)[]) {
    if (!isNestedBeyond(files[key])) continue;
    throw new UserError(
      `${files.name}: ${fileNames[key]}: lists and objects stand in each other more than ${NESTING_CAP} times.`,
    );
  }
}

type Json = Readonly<Record<string, unknown>>;

/** Throws a UserError where a token's id is no whole number or beyond the cap. `json` is tokenizer.json. */
export function refuseHugeIds(json: Json, name: string): void {
  const { model, added_tokens } = json as { model?: { vocab?: unknown }; added_tokens?: unknown };
  const vocab = model?.vocab;
  if (typeof vocab === "object" && vocab !== null && !Array.isArray(vocab)) {
    for (const token in vocab) refuseHugeId(token, (vocab as Json)[token], name);
  }
  if (!Array.isArray(added_tokens)) return;
  for (const token of added_tokens as ({ id?: unknown; content?: unknown } | null)[]) {
    refuseHugeId(token?.content, token?.id, name);
  }
}

function refuseHugeId(token: unknown, id: unknown, name: string): void {
  if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < ID_CAP) return;
  throw new UserError(
    `${name}: tokenizer.json: the token ${(JSON.stringify(token) ?? "without content").slice(0, 60)} has the id ${(JSON.stringify(id) ?? "missing").slice(0, 40)}; expected a whole number below ${ID_CAP}.`,
  );
}

/**
 * Runs work of the tokenizer on a text of some length; UserError where its patterns take far too long, or where the
 * library fails on it: it believes what the file says and meets what is wrong with it here.
 */
export type PatternGuard = <T>(length: number, work: () => T) => T;

/**
 * Patterns whose time grows with the text alone: those of GPT-2's, LLaMA 3's, Qwen's and Mistral's families, and of
 * lowrank's own base. Others are timed on every text.
 */
const trustedPatterns = new Set([
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  " ?\\p{L}+|\\p{N}| ?[^ \\t\\r\\n\\p{L}\\p{N}]+|\\n+|[ \\t\\r]+",
]);

/** A guard costs as much as tokenising some hundred characters, so short texts of trusted patterns go without. */
const UNGUARDED_LENGTH = 10_000;
const LIMIT_MS = 3000;
/** Twenty times what lowrank's own base takes for a character. */
const LIMIT_MS_PER_CHARACTER = 0.02;

/** The guard of a tokenizer.json. */
export function patternGuard(json: Json, name: string): PatternGuard {
  const patterns: string[] = [];
  for (const part of ["normalizer", "pre_tokenizer", "decoder"]) collectPatterns(json[part], patterns);
  const trusted = patterns.every((pattern) => trustedPatterns.has(pattern));
  return (length, work) => {
    try {
      if (trusted && length <= UNGUARDED_LENGTH) return work();
      return withinTime(Math.ceil(LIMIT_MS + LIMIT_MS_PER_CHARACTER * length), work);
    } catch (error) {
      if (!(error instanceof TimeLimitError)) {
        throw new UserError(
          `${name}: tokenizer.json cannot be used: ${(error as Error).message}. Expected the file that transformers' save_pretrained writes.`,
        );
      }
      const shown = patterns.map((pattern) => JSON.stringify(pattern.slice(0, 100))).join(", ");
      throw new UserError(
        `${name}: tokenizer.json: splitting a text of ${length} characters ${error.message}; ${patterns.length > 0 ? `its patterns ${shown} backtrack too much` : "it is too long for this tokenizer"}.`,
      );
    }
  };
}

/** Depth is that of Sequences in Sequences, which nobody nests deeply. */
const DEPTH_CAP = 32;

function collectPatterns(value: unknown, into: string[], depth = 0): void {
  if (typeof value !== "object" || value === null || depth > DEPTH_CAP) return;
  for (const [key, item] of Object.entries(value)) {
    if (key === "Regex" && typeof item === "string") into.push(item);
    else collectPatterns(item, into, depth + 1);
  }
}
