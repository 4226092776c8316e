// Models of more than text (vision, audio) whose text tower is one that we know: config.json keeps its configuration in
// text_config, and its weights and modules lie below a prefix. What is trained, answers and is exported is the text tower;
// the rest is carried along untouched. The prefixes of weights in files are formats/model-folder.ts's.

import { UserError } from "../util/errors.ts";
import type { Json } from "./config-reader.ts";
import type { DecoderConfig, TextTower } from "./decoder-config.ts";

interface Wrapper extends Pick<TextTower, "modulePrefix"> {
  /** model_type of a text_config that does not say. */
  readonly usualText: string;
  /** Whose tie flag counts, where both have one: transformers' wrappers go by their own, its text classes by theirs. */
  readonly tiedByWrapper: boolean;

  /** What the whole computes otherwise than its text tower by itself. */
  readonly change?: Partial<DecoderConfig>;
}

const languageModel = { modulePrefix: "model.language_model.", tiedByWrapper: true } as const;

const wrappers: Readonly<Record<string, Wrapper>> = {
  // Its head has no soft cap, whatever text_config says.
  gemma3: { ...languageModel, usualText: "gemma3_text", change: { logitSoftCap: 0 } },
  gemma4: { ...languageModel, usualText: "gemma4_text" },
  gemma4_unified: { ...languageModel, usualText: "gemma4_unified_text" },
  mistral3: { ...languageModel, usualText: "mistral" },
  // AutoModelForCausalLM, which PEFT's users open it by, gives the text model alone, with its own names.
  qwen3_5: { modulePrefix: "model.", tiedByWrapper: false, usualText: "qwen3_5_text" },
  qwen3_5_moe: { modulePrefix: "model.", tiedByWrapper: false, usualText: "qwen3_5_moe_text" },
};

export const wrapperNames = Object.keys(wrappers);

export interface TowerConfig {
  /** The text tower's own config.json. */
  readonly json: Json;
  /** What its reader's result is changed by. */
  readonly change: Partial<DecoderConfig>;
}

/** The text tower of a config.json; undefined where it is no wrapper of ours. */
export function textTowerOf(json: Json): TowerConfig | undefined {
  const name = String(json.model_type);
  if (!Object.hasOwn(wrappers, name)) return undefined;
  // What a file leaves out is as the class has it.
  const text = json.text_config ?? {};
  if (typeof text !== "object" || Array.isArray(text)) {
    throw new UserError(
      `config.json: text_config should be an object, found ${JSON.stringify(text).slice(0, 80)}`,
    );
  }
  const { modulePrefix, usualText, tiedByWrapper, change } = wrappers[name]!;
  const { tie_word_embeddings: tiesWhole } = json;
  const own: Json = {
    ...{ model_type: usualText, ...text },
    ...(tiedByWrapper || tiesWhole === undefined ? {} : { tie_word_embeddings: tiesWhole, ...text }),
  };
  const tied = tiedByWrapper ? { tie_word_embeddings: tiesWhole ?? true } : {};
  return { json: { ...own, ...tied }, change: { ...change, tower: { wrapper: name, modulePrefix } } };
}

/** Whether config.json is of a model around another, whose configuration lies in it. */
export function wrappedType(json: Json): string | undefined {
  const text = json.text_config;
  if (typeof text !== "object" || text === null) return undefined;
  const { model_type: type } = text as Json;
  return typeof type === "string" ? type : "a language model";
}

/** config.json with values that belong to the text tower, where there is one. */
export function withTextValues<T extends Json>(json: T, values: Json): T {
  if (!textTowerOf(json)) return { ...json, ...values };
  const { text_config: text } = json as { readonly text_config?: Json };
  const { tie_word_embeddings: tied } = values;
  const whole = tied === undefined ? {} : { tie_word_embeddings: tied };
  return { ...json, ...whole, text_config: { ...text, ...values } };
}

/** A module of the text tower as the whole model names it; the way back is formats/peft.ts's. */
export function moduleInWhole(tower: TextTower | undefined, name: string): string {
  return tower && name.startsWith("model.") ? tower.modulePrefix + name.slice("model.".length) : name;
}
