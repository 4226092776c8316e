// What a tokenizer is made from. Reading the files: load-tokenizer.node.ts; what they mean: tokenizer.ts, special-tokens.ts.

/** The parsed JSON files of a model folder that say how its text is tokenised. Only `tokenizer` is required. */
export interface TokenizerFiles {
  /** Begins error messages: the folder or model name. */
  readonly name: string;
  /** tokenizer.json */
  readonly tokenizer: unknown;
  /** tokenizer_config.json */
  readonly tokenizerConfig?: unknown;
  /** special_tokens_map.json */
  readonly specialTokensMap?: unknown;
  /** generation_config.json: may name several EOS ids. */
  readonly generationConfig?: unknown;
  /** config.json: asked for EOS only when no other file names one. */
  readonly modelConfig?: unknown;
  /** chat_template.jinja; where it or `additionalTemplates` is there, those inside tokenizer_config.json do not count. */
  readonly chatTemplate?: string;
  /** additional_chat_templates/NAME.jinja by name. */
  readonly additionalTemplates?: Readonly<Record<string, string>>;
  /** --eos-token and --pad-token: in place of what the files name. */
  readonly eosToken?: string;
  readonly padToken?: string;
}
