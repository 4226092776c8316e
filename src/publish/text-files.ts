// What a result must carry so that whoever uses it tokenises and renders text as its training did (text/open-text.ts
// reads it back): the chat template that was given in place of the model's, the tokenizer that came with an adapter,
// and the tokens of --eos-token and --pad-token. Beside an adapter only what its model's folder does not say.

import type { JsonObject } from "../formats/json.ts";
import { copyTokenizerFiles, editJsonFile, writeChatTemplates } from "../formats/side-files.ts";
import type { OpenedText } from "../text/open-text.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** Writes into an adapter's folder what the model's folder would not say. */
export async function writeTextBesideAdapter(text: OpenedText, out: string): Promise<void> {
  const { sources, tokenizerFrom, tokenizerFolder } = text;
  const renamed = sources.eosToken !== undefined || sources.padToken !== undefined;
  if (renamed) await copyTokenizerFiles(sources.model, out);
  if (tokenizerFrom !== "model") await copyTokenizerFiles(tokenizerFolder, out);
  if (renamed) await nameTokens(text, out);
  if (carriesTemplates(text) || (renamed && text.templateFrom !== undefined)) {
    await writeChatTemplates(out, text.templates);
  }
}

/** Corrects a model folder that holds the side files of the model that was trained or merged. */
export async function writeTextIntoModel(text: OpenedText, out: string): Promise<void> {
  const { sources, tokenizerFrom, tokenizerFolder, tokenizer } = text;
  if (tokenizerFrom !== "model") await copyTokenizerFiles(tokenizerFolder, out);
  if (sources.eosToken !== undefined || sources.padToken !== undefined) await nameTokens(text, out);
  const namesEos = tokenizerFrom === "adapter" || sources.eosToken !== undefined;
  const namesPad = tokenizerFrom === "adapter" || sources.padToken !== undefined;
  if (namesEos || namesPad) await nameIds(tokenizer, { namesEos, namesPad }, out);
  if (carriesTemplates(text)) await writeChatTemplates(out, text.templates);
}

/** Token ids in config.json, and in generation_config.json, where further ids that end a text stay behind the new one. */
async function nameIds(
  { eosId, padId }: Tokenizer,
  { namesEos, namesPad }: { readonly namesEos: boolean; readonly namesPad: boolean },
  out: string,
): Promise<void> {
  const pad = namesPad && padId !== undefined ? { pad_token_id: padId } : {};
  const withIds = (json: JsonObject, before: unknown): JsonObject => {
    if (!namesEos) return { ...json, ...pad };
    const further = [before ?? []].flat().filter((id) => id !== eosId);
    return { ...json, eos_token_id: further.length === 0 ? eosId : [eosId, ...further], ...pad };
  };
  let ids: JsonObject = {};
  await editJsonFile(`${out}/config.json`, (json) => {
    // A single id here was the end of a text; of several, some end a turn.
    const named = withIds(json, Array.isArray(json.eos_token_id) ? json.eos_token_id : undefined);
    const { bos_token_id = null, eos_token_id = null, pad_token_id = null } = named;
    ids = { bos_token_id, eos_token_id, pad_token_id };
    return named;
  });
  const absent = { _from_model_config: true, ...ids };
  await editJsonFile(`${out}/generation_config.json`, (json) => withIds(json, json.eos_token_id), absent);
}

/** Whether the templates would not be found in the model's folder, or would be lost with its tokenizer's files. */
function carriesTemplates({ templateFrom, tokenizerFrom }: OpenedText): boolean {
  return templateFrom !== undefined && (templateFrom !== "model" || tokenizerFrom !== "model");
}

async function nameTokens({ sources }: OpenedText, folder: string): Promise<void> {
  const named = {
    ...(sources.eosToken !== undefined && { eos_token: sources.eosToken }),
    ...(sources.padToken !== undefined && { pad_token: sources.padToken }),
  };
  await editJsonFile(`${folder}/tokenizer_config.json`, (json) => ({ ...json, ...named }), {});
  await editJsonFile(`${folder}/special_tokens_map.json`, (json) => ({ ...json, ...named }));
}
