// Reads a tokenizer from a model folder on disk: the one file of text/ that touches Node's file system.
// What the files mean is in tokenizer.ts; chat templates given by hand (--chat-template) are read here too.

import { constants } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { nearestName, UserError } from "../util/errors.ts";
import { builtinTemplates } from "./builtin-templates.ts";
import { type NamedTemplates, Tokenizer } from "./tokenizer.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";

/** The largest tokenizer.json in use is some 35 MB. */
const JSON_CAP_BYTES = 256 * 2 ** 20;
const TEMPLATE_CAP_BYTES = 2 ** 20;
const TEMPLATE_FILE = "chat_template.jinja";
const ADDITIONAL_TEMPLATES_FOLDER = "additional_chat_templates";
const ADDITIONAL_TEMPLATES_CAP = 64;

export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  return new Tokenizer(await requireTokenizer(folder, await readTokenizerFiles(folder)));
}

/** The files of a folder that say how its text is tokenised and rendered; what it lacks is undefined. */
export async function readTokenizerFiles(
  folder: string,
): Promise<Omit<TokenizerFiles, "eosToken" | "padToken">> {
  return {
    name: nameOf(folder),
    tokenizer: await readJson(folder, "tokenizer.json"),
    tokenizerConfig: await readJson(folder, "tokenizer_config.json"),
    specialTokensMap: await readJson(folder, "special_tokens_map.json"),
    generationConfig: await readJson(folder, "generation_config.json"),
    modelConfig: await readJson(folder, "config.json"),
    chatTemplate: await readText(join(folder, TEMPLATE_FILE), TEMPLATE_CAP_BYTES),
    additionalTemplates: await readAdditionalTemplates(folder),
  };
}

/** The same files, when tokenizer.json is among them; else a UserError that says how to make it. */
export async function requireTokenizer<T extends TokenizerFiles>(folder: string, files: T): Promise<T> {
  if (files.tokenizer === undefined) throw await explainMissing(folder);
  return files;
}

/** What a folder is called in messages. */
export function nameOf(folder: string): string {
  return basename(folder) || folder;
}

/** additional_chat_templates/NAME.jinja, as transformers writes and reads them. */
async function readAdditionalTemplates(folder: string): Promise<Record<string, string>> {
  const inside = join(folder, ADDITIONAL_TEMPLATES_FOLDER);
  const files = (await readdir(inside).catch(() => [])).filter((name) => name.endsWith(".jinja")).sort();
  if (files.length > ADDITIONAL_TEMPLATES_CAP) {
    throw new UserError(
      `${inside}: ${files.length} templates; at most ${ADDITIONAL_TEMPLATES_CAP} are read.`,
    );
  }
  const templates: [string, string][] = [];
  for (const file of files) {
    const source = await readText(join(inside, file), TEMPLATE_CAP_BYTES);
    if (source !== undefined) templates.push([file.slice(0, -".jinja".length), source]);
  }
  return Object.fromEntries(templates);
}

/**
 * Jinja source for --chat-template: a file, a built-in name, or the name of one of the model's own templates. A file
 * wins over a model's template of that name, and a built-in one over a file.
 */
export async function loadChatTemplate(nameOrPath: string, own: NamedTemplates = {}): Promise<string> {
  const builtin = (builtinTemplates as Readonly<Record<string, string>>)[nameOrPath];
  if (builtin !== undefined && Object.hasOwn(builtinTemplates, nameOrPath)) return builtin;
  const text = await readText(nameOrPath, TEMPLATE_CAP_BYTES);
  if (text !== undefined) return text;
  if (Object.hasOwn(own, nameOrPath)) return own[nameOrPath]!;
  const names = Object.keys(builtinTemplates);
  const ownNames = Object.keys(own).filter((name) => name !== "default");
  const near = nearestName(nameOrPath, [...names, ...ownNames]);
  const told = ownNames.length > 0 ? `; this model's own are ${ownNames.join(", ")}` : "";
  throw new UserError(
    `--chat-template ${nameOrPath}: there is no such file, and the built-in templates are ${names.join(" and ")}${told}.${near ? ` Did you mean ${near}?` : ""}`,
  );
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
  // A named pipe would be waited for without end.
  const flags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);
  const file = await open(path, flags).catch((error: NodeJS.ErrnoException) => {
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
