// Which ids begin, end and pad a text, gathered from the several files of a model folder that may say so.
// Order of belief: --eos-token and --pad-token; the post-processor for BOS; tokenizer_config.json, then
// special_tokens_map.json for names; generation_config.json for further EOS ids; config.json last. Used by
// tokenizer.ts only.

import { UserError } from "../util/errors.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";

export interface SpecialTokens {
  /** bos_token, eos_token and so on, as chat templates name them. */
  readonly names: Readonly<Record<string, string>>;
  readonly bosId: number | undefined;
  /** At least one; the one that training appends comes first. */
  readonly eosIds: readonly number[];
  readonly padId: number | undefined;
}

export interface Vocabulary {
  idOf(token: string): number | undefined;
  tokenOf(id: number): string | undefined;
  readonly prefixIds: readonly number[];
}

const ROLES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

export function readSpecialTokens(files: TokenizerFiles, vocabulary: Vocabulary): SpecialTokens {
  const names: Record<string, string> = {};
  for (const source of [files.tokenizerConfig, files.specialTokensMap]) {
    for (const role of ROLES) {
      const token = tokenText(field(source, role));
      if (token !== undefined) names[role] ??= token;
    }
  }

  for (const [role, token] of [
    ["eos_token", files.eosToken],
    ["pad_token", files.padToken],
  ] as const) {
    if (token === undefined) continue;
    requireToken(token, role, files.name, vocabulary);
    names[role] = token;
  }

  const eosIds = new Set<number>();
  if (names.eos_token !== undefined) {
    const id = vocabulary.idOf(names.eos_token);
    if (id === undefined) {
      throw new UserError(
        `${files.name}: the EOS token ${JSON.stringify(names.eos_token)} is not in the vocabulary of tokenizer.json.`,
      );
    }
    eosIds.add(id);
  }
  for (const id of idList(field(files.generationConfig, "eos_token_id"))) eosIds.add(id);
  const { modelConfig } = files;
  // A model of more than text says it of its text tower.
  const ofModel =
    field(modelConfig, "eos_token_id") ?? field(field(modelConfig, "text_config"), "eos_token_id");
  if (eosIds.size === 0) for (const id of idList(ofModel)) eosIds.add(id);
  for (const id of eosIds) if (vocabulary.tokenOf(id) === undefined) eosIds.delete(id);
  if (eosIds.size === 0) {
    throw new UserError(
      `${files.name}: no EOS token is named in tokenizer_config.json, special_tokens_map.json, generation_config.json or config.json, so a trained model would never stop. Add "eos_token" to tokenizer_config.json.`,
    );
  }
  const eos = vocabulary.tokenOf([...eosIds][0]!);
  if (eos !== undefined) names.eos_token ??= eos;

  const bosId =
    vocabulary.prefixIds[0] ?? (names.bos_token === undefined ? undefined : vocabulary.idOf(names.bos_token));
  if (vocabulary.prefixIds.length > 0) {
    const bos = vocabulary.tokenOf(vocabulary.prefixIds[0]!);
    if (bos !== undefined) names.bos_token ??= bos;
  }
  return {
    names,
    bosId,
    eosIds: [...eosIds],
    padId: names.pad_token === undefined ? undefined : vocabulary.idOf(names.pad_token),
  };
}

function requireToken(
  token: string,
  role: "eos_token" | "pad_token",
  name: string,
  vocabulary: Vocabulary,
): void {
  if (vocabulary.idOf(token) !== undefined) return;
  throw new UserError(
    `--${role.replace("_", "-")} ${JSON.stringify(token)}: this is no token of ${name}; expected the exact text of one token of its tokenizer.json, such as one of its added_tokens.`,
  );
}

function field(source: unknown, key: string): unknown {
  if (typeof source !== "object" || source === null) return undefined;
  return (source as Record<string, unknown>)[key];
}

/** A special token is written as its text or as an object with `content`. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const content = field(value, "content");
  return typeof content === "string" ? content : undefined;
}

function idList(value: unknown): number[] {
  const list = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => Number.isSafeInteger(id) && (id as number) >= 0);
}
