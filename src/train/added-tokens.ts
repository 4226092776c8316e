// --add-tokens: the model's tokenizer with further tokens, as files in a folder of its own that counts before the
// model's while the run lasts, and whose files go with the result. The tables that the tokens need are made where the
// model is opened (models/open-model.ts) and trained whole (session.ts). What the files hold: text/extend-tokenizer.ts.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openFile } from "../formats/disk.ts";
import { readJsonObject } from "../formats/json.ts";
import { copySideFiles } from "../formats/side-files.ts";
import { extendTokenizer, parseTokenList } from "../text/extend-tokenizer.ts";
import { UserError } from "../util/errors.ts";

const listCapBytes = 16 * 2 ** 20;
const tokenizerCapBytes = 256 * 2 ** 20;

export interface AddedTokens {
  /** Holds the extended tokenizer. */
  readonly folder: string;
  /** Those that were new to the tokenizer. */
  readonly added: readonly string[];
  /** Those that it had. */
  readonly known: number;
  free(): Promise<void>;
}

/** Makes the extended tokenizer. UserError for a file that holds no tokens, or none that are new. */
export async function addTokens(model: string, file: string): Promise<AddedTokens> {
  const tokens = parseTokenList(await readList(file), file);
  const folder = await mkdtemp(join(tmpdir(), "lowrank-tokenizer-"));
  try {
    await copySideFiles(model, folder);
    const tokenizer = await readJson(join(model, "tokenizer.json"));
    const config = await readJson(join(model, "tokenizer_config.json")).catch(() => undefined);
    const extended = extendTokenizer(tokenizer, config ?? {}, tokens);
    if (extended.added.length === 0)
      throw new UserError(`${file}: the tokenizer has every one of these ${tokens.length} tokens already`);
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify(extended.tokenizer));
    if (config)
      await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify(extended.config, null, 2));
    const free = () => rm(folder, { recursive: true, force: true });
    return { folder, added: extended.added, known: tokens.length - extended.added.length, free };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

async function readList(path: string): Promise<string> {
  const source = await openFile(path);
  try {
    if (source.size > listCapBytes)
      throw new UserError(`${path}: ${source.size} bytes are too many for a list of tokens`);
    return new TextDecoder("utf-8", { fatal: true }).decode(await source.read(0, source.size));
  } catch (error) {
    if (error instanceof TypeError) throw new UserError(`${path}: the text is not valid UTF-8`);
    throw error;
  } finally {
    await source.close();
  }
}

async function readJson(path: string): Promise<Record<string, unknown>> {
  const source = await openFile(path);
  try {
    return (await readJsonObject(source, tokenizerCapBytes)) as Record<string, unknown>;
  } finally {
    await source.close();
  }
}
