// Chat templates of the kinds that the families' instruction models bring, each written anew here: what the loss is on, and
// that what precedes an answer is what asks for one. Whether a template may be told apart at all is chat-template.test.ts's.

import { describe, expect, it } from "vitest";
import { type ChatMessage, ChatTemplate } from "../../src/text/chat-template.ts";

const user = (content: string): ChatMessage => ({ role: "user", content });
const assistant = (content: string): ChatMessage => ({ role: "assistant", content });
const talk = [user("Hi"), assistant("Hello."), user(" And now? "), assistant("Now this.\nAll.")];
const system: ChatMessage = { role: "system", content: "Be brief." };

interface Kind {
  readonly source: string;
  /** Of `talk`, what the assistant says. */
  readonly said: readonly string[];
  /** What all of it begins with when the system has a word. */
  readonly begins: string;
}

const kinds: Readonly<Record<string, Kind>> = {
  // Roles of its own name, the system's words in the user's first, a BOS of the template's.
  "gemma 3": {
    source: `{{ bos_token }}
{%- if messages[0].role == 'system' -%}
  {%- set before = messages[0].content + '\\n\\n' -%}{%- set turns = messages[1:] -%}
{%- else -%}
  {%- set before = '' -%}{%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
  {%- if (turn.role == 'user') == (loop.index0 % 2 == 1) -%}{{ raise_exception('roles take turns') }}{%- endif -%}
  {{ '<start_of_turn>' + ('model' if turn.role == 'assistant' else turn.role) + '\\n' + (before if loop.first else '') }}
  {{- turn.content | trim }}{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}`,
    said: ["Hello.<end_of_turn>\n", "Now this.\nAll.<end_of_turn>\n"],
    begins: "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n",
  },
  // The end of the text follows the last turn only.
  "phi 3": {
    source: `{% for turn in messages %}{{ '<|' + turn.role + '|>\\n' + turn.content + '<|end|>\\n' }}{% endfor %}{{ '<|assistant|>\\n' if add_generation_prompt else eos_token }}`,
    said: ["Hello.<|end|>\n", "Now this.\nAll.<|end|>\n</s>"],
    begins: "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
  },
  "phi 4": {
    source: `{% for turn in messages %}{{ '<|im_start|>' + turn.role + '<|im_sep|>' + turn.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}`,
    said: ["Hello.<|im_end|>", "Now this.\nAll.<|im_end|>"],
    begins: "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi<|im_end|>",
  },
  // No words ask for an answer.
  "ministral 3": {
    source: `{{ bos_token }}{% for turn in messages %}{% if turn.role == 'system' %}{{ '[SYSTEM_PROMPT]' + turn.content + '[/SYSTEM_PROMPT]' }}{% elif turn.role == 'user' %}{{ '[INST]' + turn.content + '[/INST]' }}{% elif turn.role == 'assistant' %}{{ turn.content + eos_token }}{% else %}{{ raise_exception('unknown role') }}{% endif %}{% endfor %}`,
    said: ["Hello.</s>", "Now this.\nAll.</s>"],
    begins: "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Hi[/INST]",
  },
  // A word of the system's where nobody gives one, and the date in it.
  granite: {
    source: `{%- if messages[0].role == 'system' %}{% set word = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set word = 'Today is ' + strftime_now('%B %d, %Y') + '.' %}{% set turns = messages %}{% endif -%}
{{ '<|start_of_role|>system<|end_of_role|>' + word + '<|end_of_text|>\\n' }}
{%- for turn in turns %}{{ '<|start_of_role|>' + turn.role + '<|end_of_role|>' + turn.content + '<|end_of_text|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}`,
    said: ["Hello.<|end_of_text|>\n", "Now this.\nAll.<|end_of_text|>\n"],
    begins: "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n<|start_of_role|>user",
  },
  // ChatML with a heading of the mode, whose prompt opens an empty thought.
  smollm3: {
    source: `{%- set thinks = enable_thinking | default(false) -%}
{{ '<|im_start|>system\\n## Metadata\\nReasoning Mode: ' + ('/think' if thinks else '/no_think') + '\\n\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{{ '<|im_end|>\\n' }}
{%- for turn in messages %}{% if turn.role != 'system' %}{{ '<|im_start|>' + turn.role + '\\n' }}
{%- if turn.role == 'assistant' and not thinks %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}{{ turn.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' + ('' if thinks else '<think>\\n\\n</think>\\n') }}{% endif %}`,
    said: ["Hello.<|im_end|>\n", "Now this.\nAll.<|im_end|>\n"],
    begins:
      "<|im_start|>system\n## Metadata\nReasoning Mode: /no_think\n\nBe brief.<|im_end|>\n<|im_start|>user\n",
  },
  // An answer ends with EOS, and with a line's end unless it is the last.
  "olmo 2": {
    source: `{{ bos_token }}{% for turn in messages %}{% if turn.role == 'assistant' %}{{ '<|assistant|>\\n' + turn.content + eos_token + ('' if loop.last else '\\n') }}{% else %}{{ '<|' + turn.role + '|>\\n' + turn.content + '\\n' }}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}`,
    said: ["Hello.</s>", "Now this.\nAll.</s>"],
    begins: "<s><|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\n",
  },
  // ChatML with a system turn of its own.
  "olmo 3": {
    source: `{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}
{%- for turn in messages %}{% if turn.role == 'assistant' %}{{ '<|im_start|>assistant\\n' + turn.content + (eos_token if loop.last else '<|im_end|>') + ('' if loop.last else '\\n') }}{% else %}{{ '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`,
    said: ["Hello.", "Now this.\nAll.</s>"],
    begins: "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n",
  },
};

describe("templates of families", () => {
  it.each(Object.entries(kinds))(
    "%s: the loss is on what the assistant says",
    (_, { source, said, begins }) => {
      const template = new ChatTemplate(source, { bos_token: "<s>", eos_token: "</s>" }, "T");
      for (const messages of [talk, [system, ...talk]]) {
        const chat = template.renderSegments(messages);
        const spoken = chat.segments.filter((segment) => segment.assistant).map(({ text }) => text);
        expect(spoken).toEqual(said);
        expect(chat.segments.map(({ text }) => text).join("")).toBe(template.render(messages));
        expect(chat.promptAgrees).toBe(true);
        const asked = template.render(messages.slice(0, -1), { addGenerationPrompt: true });
        expect(asked + said.at(-1)).toBe(template.render(messages));
      }
      expect(template.render([system, ...talk]).startsWith(begins)).toBe(true);
    },
  );
});
