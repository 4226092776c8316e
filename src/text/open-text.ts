// The one place that decides how text is tokenised and rendered: from a model's folder, an adapter's folder and the
// flags, to a tokenizer and a chat template, and where each came from. An adapter was trained with what lies beside it
// (as lowrank, PEFT, TRL and Unsloth leave it), so that counts before the model's own; a flag counts before both.
// Every command and the server ask here. Writing what a result must carry: publish/text-files.ts.

import { builtinTemplates } from "./builtin-templates.ts";
import { ChatTemplate } from "./chat-template.ts";
import { contentHash } from "./content-hash.ts";
import { loadChatTemplate, nameOf, readTokenizerFiles, requireTokenizer } from "./load-tokenizer.node.ts";
import { type NamedTemplates, Tokenizer, templatesOf } from "./tokenizer.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";

export interface TextSources {
  /** The model's folder. */
  readonly model: string;
  /** The folder of an adapter that is used with the model, or that training goes on from. */
  readonly adapter?: string;
  /** A folder with the tokenizer that --add-tokens made: it counts before all others, its templates do not. */
  readonly extended?: string;
  /** --chat-template: a built-in name, a file, or the name of one of the model's or the adapter's templates. */
  readonly chatTemplate?: string;
  readonly eosToken?: string;
  readonly padToken?: string;
}

export interface OpenedText {
  readonly sources: TextSources;
  readonly tokenizer: Tokenizer;
  /** Undefined where none of the three has one. */
  readonly template: ChatTemplate | undefined;
  /** Jinja sources behind `template`, as other tools read them; empty where there is none. */
  readonly templates: NamedTemplates;
  readonly tokenizerFrom: "model" | "adapter" | "extended";
  /** Where its files lie, those that the model's folder does not have to give. */
  readonly tokenizerFolder: string;
  readonly templateFrom: "model" | "adapter" | "flag" | undefined;
  /** What was taken from elsewhere than the model's folder, a sentence each, for whoever runs the command. */
  readonly notes: readonly string[];
  /** Hex; equal for texts that are tokenised and rendered alike. */
  readonly hash: string;
}

/**
 * UserError for a folder without a tokenizer, files that cannot be used, and flags that name nothing. `like`, a
 * text of the same model, lends its tokenizer where this one would be the same: building one may take a second.
 */
export async function openText(sources: TextSources, like?: OpenedText): Promise<OpenedText> {
  const { model, adapter, eosToken, padToken } = sources;
  const ofModel = await requireTokenizer(model, await readTokenizerFiles(model));
  const ofAdapter = adapter === undefined ? undefined : await readTokenizerFiles(adapter);
  const { extended } = sources;
  const beside = extended === undefined ? ofAdapter : await readTokenizerFiles(extended);
  const own = beside && tokenizerOf(beside, ofModel);
  const tokenizerFrom = own ? (extended === undefined ? "adapter" : "extended") : "model";
  const tokenizerFolder = (own ? (extended ?? adapter) : undefined) ?? model;
  const tokenizer =
    like?.tokenizerFolder === tokenizerFolder && sameFlags(like.sources, sources)
      ? like.tokenizer
      : new Tokenizer({ ...(own ?? ofModel), eosToken, padToken });
  const notes: string[] = [];
  if (tokenizerFrom === "adapter") notes.push(`tokenizer: the one in ${adapter}, in place of the model's`);

  const modelTemplates = templatesOf(ofModel);
  const adapterTemplates = ofAdapter ? templatesOf(ofAdapter) : {};
  const found = Object.keys(adapterTemplates).length > 0 && !same(adapterTemplates, modelTemplates);
  let templates = found ? adapterTemplates : modelTemplates;
  let templateFrom: OpenedText["templateFrom"] = found ? "adapter" : "model";
  if (sources.chatTemplate !== undefined) {
    const source = await loadChatTemplate(sources.chatTemplate, templates);
    const replaced = { default: portable(source, tokenizer) };
    if (found && !same(replaced, templates)) {
      notes.push(`chat template: --chat-template ${sources.chatTemplate}, in place of the one in ${adapter}`);
    }
    templates = replaced;
    templateFrom = "flag";
  } else if (found) {
    notes.push(
      `chat template: the one in ${adapter}, in place of ${Object.keys(modelTemplates).length > 0 ? "the model's" : "none of the model's"}`,
    );
  }
  if (Object.keys(templates).length === 0) templateFrom = undefined;
  const name = {
    flag: "--chat-template",
    adapter: `${nameOf(adapter ?? "")}: the chat template`,
    model: `${tokenizer.name}: the chat template`,
  };
  const template =
    templateFrom && ChatTemplate.of(tokenizer, { source: templates, name: name[templateFrom] });
  const hash =
    templateFrom === "model" || !template
      ? tokenizer.hash
      : contentHash(JSON.stringify([tokenizer.hash, template.hash]));
  return {
    sources,
    tokenizer,
    template,
    templates,
    tokenizerFrom,
    tokenizerFolder,
    templateFrom,
    notes,
    hash,
  };
}

/** Another chat template than the text's own: a file, a built-in name, or one of the model's by name. */
export async function openTemplate(
  name: string,
  { tokenizer, templates }: Pick<OpenedText, "tokenizer" | "templates">,
): Promise<ChatTemplate | undefined> {
  const source = portable(await loadChatTemplate(name, templates), tokenizer);
  return ChatTemplate.of(tokenizer, { source: { default: source }, name });
}

function sameFlags(a: TextSources, b: TextSources): boolean {
  return a.model === b.model && a.eosToken === b.eosToken && a.padToken === b.padToken;
}

/** The adapter's tokenizer over the model's, file by file; undefined where it brings none or the same. */
function tokenizerOf(adapter: TokenizerFiles, model: TokenizerFiles): TokenizerFiles | undefined {
  const differs = (key: "tokenizer" | "specialTokensMap") =>
    adapter[key] !== undefined && !equal(adapter[key], model[key]);
  const config = withoutTemplate(adapter.tokenizerConfig);
  const differsInConfig = config !== undefined && !equal(config, withoutTemplate(model.tokenizerConfig));
  if (!differs("tokenizer") && !differsInConfig && !differs("specialTokensMap")) return undefined;
  const { tokenizer, tokenizerConfig, specialTokensMap, generationConfig, ...templates } = adapter;
  return {
    ...templates,
    tokenizer: tokenizer ?? model.tokenizer,
    tokenizerConfig: tokenizerConfig ?? model.tokenizerConfig,
    specialTokensMap: specialTokensMap ?? model.specialTokensMap,
    generationConfig: generationConfig ?? model.generationConfig,
    modelConfig: model.modelConfig,
  };
}

/** Our own templates as other tools can render them, which know no `leading_bos`. */
function portable(source: string, tokenizer: Tokenizer): string {
  if (!Object.values<string>(builtinTemplates).includes(source)) return source;
  return source.replace("{{- leading_bos -}}\n", tokenizer.addsBos ? "{{- bos_token -}}\n" : "");
}

function withoutTemplate(config: unknown): unknown {
  if (typeof config !== "object" || config === null || Array.isArray(config)) return config;
  const { chat_template: _, ...rest } = config as Record<string, unknown>;
  return rest;
}

function same(a: NamedTemplates, b: NamedTemplates): boolean {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => a[name] === b[name]);
}

function equal(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
