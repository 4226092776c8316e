// The name that a GGUF file gives its model. llama.cpp reads a meaning into it (src/llama-vocab.cpp): where it speaks of
// Phi-3, special tokens swallow the white space after them, but for three, and four tokens must be there, or the file does
// not load. So the name speaks of Phi-3 exactly where the tokenizer does as Phi-3's.

import { isJsonObject, type JsonObject } from "../formats/json.ts";

const phi3 = /phi(-?)3/gi;
const needed = ["</s>", "<unk>", "<s>", "<|endoftext|>"];
const keepsSpace = new Set(["<unk>", "<s>", "<|endoftext|>"]);

/** `json` is the model's tokenizer.json. */
export function ggufModelName(name: string, json: JsonObject): string {
  const added = (Array.isArray(json.added_tokens) ? json.added_tokens : []).filter(isJsonObject);
  const special = added.filter((token) => token.special === true);
  const model = isJsonObject(json.model) && isJsonObject(json.model.vocab) ? json.model.vocab : {};
  const known = new Set(added.map(({ content }) => content));
  const isWhole = needed.every((token) => known.has(token) || Object.hasOwn(model, token));
  const strips = added.some(({ rstrip }) => rstrip === true);
  const isLikePhi3 =
    isWhole && strips && special.every(({ content, rstrip }) => rstrip === !keepsSpace.has(String(content)));
  const speaks = name.search(phi3) !== -1;
  if (isLikePhi3) return speaks ? name : `${name} (phi-3)`;
  return speaks && !(isWhole && strips) ? name.replace(phi3, "phi 3") : name;
}
