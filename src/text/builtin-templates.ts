// Chat templates of our own, for models that bring none: --chat-template chatml or alpaca. Whoever serves the
// model must use the same one. `leading_bos` is the BOS token where the tokenizer puts one before a text, else "".
// {% generation %} marks what the model is trained to say; the rest of the machinery is in chat-template.ts.

/** <|im_start|>role ... <|im_end|>: for models whose vocabulary has these two tokens. */
const chatml = `{{- leading_bos -}}
{%- for message in messages -%}
  {{- '<|im_start|>' + message.role + '\\n' -}}
  {%- if message.role == 'assistant' -%}
    {%- generation -%}{{- (message.content or '') + '<|im_end|>' -}}{%- endgeneration -%}
  {%- else -%}
    {{- (message.content or '') + '<|im_end|>' -}}
  {%- endif -%}
  {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
`;

/** Headings in plain text and the tokenizer's own EOS: works with any vocabulary. The prompt equals data/alpaca.ts's. */
const alpaca = `{{- leading_bos -}}
{%- for message in messages -%}
  {%- if message.role == 'assistant' -%}
    {{- '### Response:\\n' -}}
    {%- generation -%}{{- (message.content or '') + eos_token -}}{%- endgeneration -%}
    {%- if not loop.last -%}{{- '\\n\\n' -}}{%- endif -%}
  {%- elif message.role == 'user' -%}
    {{- '### Instruction:\\n' + message.content + '\\n\\n' -}}
  {%- elif message.role == 'system' -%}
    {{- message.content + '\\n\\n' -}}
  {%- else -%}
    {{- raise_exception('only system, user and assistant messages are known, found ' + message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### Response:\\n' -}}{%- endif -%}
`;

export const builtinTemplates = { chatml, alpaca } satisfies Record<string, string>;
