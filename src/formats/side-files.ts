// The small files beside weights that say how text is tokenised and rendered, as files: copying them from folder to
// folder, and writing chat templates the way transformers 5 reads them. What goes into a result is decided in
// publish/text-files.ts; what the files mean is text/'s.

import { copyFile, mkdir, readdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { writeFileAtomic } from "./atomic-file.ts";
import { openFile } from "./disk.ts";
import { type JsonObject, jsonText, readJsonObject } from "./json.ts";

export const TEMPLATE_FILE = "chat_template.jinja";
const ADDITIONAL_TEMPLATES_FOLDER = "additional_chat_templates";
/** As large as any tokenizer_config.json in use, and some. */
const JSON_CAP_BYTES = 64 * 2 ** 20;

/** All that a tokenizer may be made from. */
export const TOKENIZER_FILES = new Set([
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
]);

const SIDE_FILES = new Set([
  ...TOKENIZER_FILES,
  TEMPLATE_FILE,
  "chat_template.json",
  "generation_config.json",
]);

/** Which of these files a folder holds, by path in it. */
export async function sideFilesIn(folder: string): Promise<string[]> {
  const names = (await readdir(folder)).filter((name) => SIDE_FILES.has(name)).sort();
  const inside: string[] = await readdir(join(folder, ADDITIONAL_TEMPLATES_FOLDER)).catch(() => []);
  const templates = inside.filter((name) => name.endsWith(".jinja")).sort();
  return [...names, ...templates.map((name) => `${ADDITIONAL_TEMPLATES_FOLDER}/${name}`)];
}

/** Copies tokenizer, chat templates and generation settings from one model folder to another; returns their paths. */
export async function copySideFiles(from: string, to: string): Promise<string[]> {
  return copyAll(from, to, await sideFilesIn(from));
}

/** Copies what a tokenizer is made of, its chat templates aside; returns the files' names. */
export async function copyTokenizerFiles(from: string, to: string): Promise<string[]> {
  return copyAll(from, to, (await readdir(from)).filter((name) => TOKENIZER_FILES.has(name)).sort());
}

async function copyAll(from: string, to: string, paths: readonly string[]): Promise<string[]> {
  for (const path of paths) {
    await mkdir(dirname(join(to, path)), { recursive: true });
    await copyFile(join(from, path), join(to, path));
  }
  return [...paths];
}

/** Makes `templates` (Jinja sources by name) the folder's only chat templates. */
export async function writeChatTemplates(
  folder: string,
  templates: Readonly<Record<string, string>>,
): Promise<void> {
  const additional = join(folder, ADDITIONAL_TEMPLATES_FOLDER);
  await rm(additional, { recursive: true, force: true });
  for (const [name, source] of Object.entries(templates)) {
    if (name === "default") await writeFileAtomic(join(folder, TEMPLATE_FILE), source);
    // A name out of a file may not lead out of the folder.
    else if (/^[\w.-]{1,128}$/.test(name) && !name.startsWith(".")) {
      await mkdir(additional, { recursive: true });
      await writeFileAtomic(join(additional, `${name}.jinja`), source);
    }
  }
  if (!Object.hasOwn(templates, "default")) await rm(join(folder, TEMPLATE_FILE), { force: true });
  await editJsonFile(join(folder, "tokenizer_config.json"), ({ chat_template: _, ...rest }) => rest);
}

/** Rewrites a JSON file; where there is none, writes one from `absent`, if that is given. */
export async function editJsonFile(
  path: string,
  edit: (json: JsonObject) => JsonObject,
  absent?: JsonObject,
): Promise<void> {
  const before = await readJsonFile(path);
  if (before === undefined && absent === undefined) return;
  const after = edit(before ?? absent!);
  if (JSON.stringify(after) !== JSON.stringify(before)) await writeFileAtomic(path, jsonText(after, before));
}

/** The object in a JSON file, or undefined where there is no such file. */
async function readJsonFile(path: string): Promise<JsonObject | undefined> {
  const names: string[] = await readdir(dirname(path)).catch(() => []);
  if (!names.includes(basename(path))) return undefined;
  const file = await openFile(path);
  try {
    return await readJsonObject(file, JSON_CAP_BYTES);
  } finally {
    await file.close();
  }
}
