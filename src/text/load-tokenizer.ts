// Reads a tokenizer from a model folder on disk: the one file of text/ that touches Node's file system.
// What the files mean is in tokenizer.ts; chat templates given by hand (--chat-template) are read here too.

import { open, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { nearestName, UserError } from "../util/errors.ts";
import { builtinTemplates } from "./builtin-templates.ts";
import { Tokenizer } from "./tokenizer.ts";

/** The largest tokenizer.json in use is some 35 MB. */
const JSON_CAP_BYTES = 256 * 2 ** 20;
const TEMPLATE_CAP_BYTES = 2 ** 20;

/** The tokenizer in `beside` (an adapter's folder) where there is one, else the model's. */
export async function loadTokenizerFor(model: string, beside: string | undefined): Promise<Tokenizer> {
  const tokenizer = beside === undefined ? undefined : await readJson(beside, "tokenizer.json");
  if (beside === undefined || tokenizer === undefined) return loadTokenizer(model);
  return new Tokenizer({
    name: basename(beside) || beside,
    tokenizer,
    tokenizerConfig:
      (await readJson(beside, "tokenizer_config.json")) ?? (await readJson(model, "tokenizer_config.json")),
    specialTokensMap: await readJson(beside, "special_tokens_map.json"),
    generationConfig: await readJson(model, "generation_config.json"),
    modelConfig: await readJson(model, "config.json"),
    chatTemplate:
      (await readText(join(beside, "chat_template.jinja"), TEMPLATE_CAP_BYTES)) ??
      (await readText(join(model, "chat_template.jinja"), TEMPLATE_CAP_BYTES)),
  });
}

export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const tokenizer = await readJson(folder, "tokenizer.json");
  if (tokenizer === undefined) throw await explainMissing(folder);
  return new Tokenizer({
    name: basename(folder) || folder,
    tokenizer,
    tokenizerConfig: await readJson(folder, "tokenizer_config.json"),
    specialTokensMap: await readJson(folder, "special_tokens_map.json"),
    generationConfig: await readJson(folder, "generation_config.json"),
    modelConfig: await readJson(folder, "config.json"),
    chatTemplate: await readText(join(folder, "chat_template.jinja"), TEMPLATE_CAP_BYTES),
  });
}

/** Jinja source for --chat-template: a built-in name or a file. */
export async function loadChatTemplate(nameOrPath: string): Promise<string> {
  const builtin = (builtinTemplates as Readonly<Record<string, string>>)[nameOrPath];
  if (builtin !== undefined && Object.hasOwn(builtinTemplates, nameOrPath)) return builtin;
  const text = await readText(nameOrPath, TEMPLATE_CAP_BYTES);
  if (text === undefined) {
    const names = Object.keys(builtinTemplates);
    const near = nearestName(nameOrPath, names);
    throw new UserError(
      `--chat-template ${nameOrPath}: there is no such file, and the built-in templates are ${names.join(" and ")}.${near ? ` Did you mean ${near}?` : ""}`,
    );
  }
  return text;
}

async function explainMissing(folder: string): Promise<UserError> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch {
    return new UserError(`${folder}: there is no such model folder.`);
  }
  const save = `AutoTokenizer.from_pretrained("${basename(folder)}").save_pretrained("${basename(folder)}")`;
  if (names.some((name) => name === "tokenizer.model" || name.startsWith("tokenizer.model."))) {
    return new UserError(
      `${folder}: has only tokenizer.model (SentencePiece); tokenizer.json is needed. Write it once with transformers: ${save}.`,
    );
  }
  if (names.includes("vocab.json") && names.includes("merges.txt")) {
    return new UserError(
      `${folder}: has only vocab.json and merges.txt; tokenizer.json is needed. Write it once with transformers: ${save}.`,
    );
  }
  return new UserError(`${folder}: tokenizer.json is missing; a model folder needs it beside config.json.`);
}

async function readJson(folder: string, name: string): Promise<unknown> {
  const path = join(folder, name);
  const text = await readText(path, JSON_CAP_BYTES);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path}: not valid JSON: ${(error as Error).message}`);
  }
}

/** The file as text without its byte order mark, or undefined when there is none. */
async function readText(path: string, capBytes: number): Promise<string | undefined> {
  const file = await open(path, "r").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
    throw new UserError(`${path}: cannot be read: ${error.message}`);
  });
  if (file === undefined) return undefined;
  try {
    const info = await file.stat();
    if (!info.isFile()) throw new UserError(`${path}: expected a file.`);
    if (info.size > capBytes) {
      throw new UserError(`${path}: ${info.size} bytes is too large; at most ${capBytes} bytes are read.`);
    }
    const bytes = await file.readFile();
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      throw new UserError(`${path}: the text is not valid UTF-8.`);
    }
  } finally {
    await file.close();
  }
}
