// An Ollama Modelfile for a GGUF file. Ollama has templates of its own (Go's, with .System, .Prompt and .Response), so
// the chat template's Jinja is rendered with marks in place of the messages and the text around the marks becomes the
// Go template. Format: github.com/ollama/ollama, docs/modelfile.md.

import type { ChatTemplate } from "../text/chat-template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { UserError } from "../util/errors.ts";

export interface ModelfileSources {
  /** What FROM names: the model's GGUF file, or a model's name. */
  readonly from: string;
  /** A LoRA adapter's GGUF file. */
  readonly adapter?: string;
}

export function ollamaModelfile(
  sources: ModelfileSources,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
): string {
  const lines = [`FROM ${sources.from}`];
  if (sources.adapter !== undefined) lines.push(`ADAPTER ${sources.adapter}`);
  const goTemplate = template ? goTemplateOf(template, tokenizer) : "{{ .Prompt }}{{ .Response }}";
  if (goTemplate !== undefined) lines.push(`TEMPLATE """${goTemplate}"""`);
  for (const id of tokenizer.eosIds) {
    const token = tokenizer.tokenOf(id);
    if (token !== undefined) lines.push(`PARAMETER stop ${JSON.stringify(token)}`);
  }
  return `${lines.join("\n")}\n`;
}

const [system, user, answer] = ["\u{f5a2a}", "\u{f5a2b}", "\u{f5a2c}"] as const;

/** Undefined where the Jinja template shows a message not exactly once, or takes no system message. */
function goTemplateOf(template: ChatTemplate, tokenizer: Tokenizer): string | undefined {
  const render = (roles: readonly string[], addGenerationPrompt: boolean): string | undefined => {
    const contents: Record<string, string> = { system, user, assistant: answer };
    try {
      const messages = roles.map((role) => ({ role, content: contents[role]! }));
      return template.render(messages, { addGenerationPrompt });
    } catch (error) {
      if (error instanceof UserError) return undefined;
      throw error;
    }
  };
  const bare = render(["user"], true)?.split(user);
  const full = render(["user", "assistant"], false)?.split(answer);
  if (bare?.length !== 2 || full?.length !== 2) return undefined;
  const prefix = withoutBos(bare[0]!, tokenizer);
  const [suffix, ending] = [bare[1]!, full[1]!];
  const turn = (before: string) =>
    `${before}{{ .Prompt }}${literal(suffix)}{{ .Response }}${literal(ending)}`;
  const marks = new RegExp(`^([\\s\\S]*)${system}([\\s\\S]*)${user}`, "u").exec(
    render(["system", "user"], true) ?? "",
  );
  if (!marks) return turn(literal(prefix));
  const [head, between] = [withoutBos(marks[1]!, tokenizer), marks[2]!];
  return turn(
    `{{ if .System }}${literal(head)}{{ .System }}${literal(between)}{{ else }}${literal(prefix)}{{ end }}`,
  );
}

/** Ollama's tokenizer adds BOS itself where the file says so. */
function withoutBos(text: string, tokenizer: Tokenizer): string {
  const bos = tokenizer.specialTokens.bos_token;
  return tokenizer.addsBos && bos !== undefined && text.startsWith(bos) ? text.slice(bos.length) : text;
}

/** Braces in the text are not actions. Three quotes would end the Modelfile's string. */
function literal(text: string): string {
  return text.replaceAll(/\{\{|"""/g, (found) => `{{ ${JSON.stringify(found)} }}`);
}
