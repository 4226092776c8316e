// `lowrank generate`: continues one prompt, token by token on stdout, or as one JSON document. Not here: sampling
// and stop texts (generate/), the options (config/generate-options.ts).

import { type GenerateOptions, generateDefinition } from "../config/generate-options.ts";
import { beginText } from "../data/render.ts";
import { continueText } from "../generate/continue-text.ts";
import type { OpenedText } from "../text/open-text.ts";
import { UserError } from "../util/errors.ts";
import { defineCommand } from "./command.ts";
import { formatRate } from "./format.ts";
import { withModel } from "./open-for.ts";
import { exitCodes } from "./terminal.ts";

export const command = defineCommand(generateDefinition, async (options, terminal) => {
  return withModel(options, terminal, async (model) => {
    const { tokenizer, text: opened } = model;
    const promptIds = promptOf(options, opened);
    const startedAt = performance.now();
    const { text, tokenIds, finishReason } = await continueText(model.loaded.decoder, tokenizer, promptIds, {
      maxNewTokens: options.maxNewTokens,
      sampling: options,
      stop: options.stop === undefined ? [] : [options.stop],
      onText: options.json ? undefined : (piece) => terminal.stream(piece),
    });
    const seconds = (performance.now() - startedAt) / 1000;
    const tokensPerSecond = Math.round((100 * tokenIds.length) / seconds) / 100;
    if (options.json) {
      terminal.document({ text, tokenIds, finishReason, tokensPerSecond, promptTokens: promptIds.length });
    } else {
      if (!text.endsWith("\n")) terminal.stream("\n");
      const why = finishReason === "stop" ? "the model stopped" : "--max-new-tokens was reached";
      terminal.note(`${tokenIds.length} tokens, ${formatRate(tokensPerSecond)} tokens/s; ${why}`);
    }
    return exitCodes.done;
  });
});

function promptOf(options: GenerateOptions, { tokenizer, template }: OpenedText): number[] {
  if (!options.chat) return beginText(tokenizer, options.prompt);
  if (!template) {
    throw new UserError(
      `${tokenizer.name}: --chat needs a chat template, and this model has none; pass the one it was trained with as --chat-template chatml, alpaca or a Jinja file`,
    );
  }
  const text = template.render([{ role: "user", content: options.prompt }], { addGenerationPrompt: true });
  return tokenizer.encode(text, { addSpecialTokens: false });
}
