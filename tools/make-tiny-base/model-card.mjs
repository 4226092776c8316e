// The README.md of models/tiny-base, filled with what the recipe has just measured. Who calls it: make.mjs.

import { parameterCount, SHAPE } from "./init-model.mjs";

/** The model card as Markdown. `before` and `after` are perplexities on the held-out stories. */
export function modelCard({ corpus, generatedRows, steps, seed, tokens, minutes, before, after, training }) {
  const settings = Object.entries(training).map(([name, value]) => `${name} ${value}`);
  return `---
license: apache-2.0
language: en
library_name: lowrank
tags: [tiny, llama, text-generation]
---

# tiny-base

A language model small enough to keep in a repository and to fine-tune in two minutes on two CPU cores. It is
what \`--model tiny\` means in lowrank: the base of the quickstart and of the tests. It tells short children's
stories in simple words, badly; it knows nothing and is good for nothing else until it is tuned.

| | |
|---|---|
| architecture | Llama, ${SHAPE.num_hidden_layers} layers of width ${SHAPE.hidden_size}, ${SHAPE.num_attention_heads} heads (${SHAPE.num_key_value_heads} for keys and values), MLP ${SHAPE.intermediate_size}, tied embeddings |
| parameters | ${parameterCount().toLocaleString("en")} in bfloat16 |
| vocabulary | ${SHAPE.vocab_size}, byte-level BPE learned on the training text |
| context | ${SHAPE.max_position_embeddings} tokens |
| held-out loss | ${Math.log(after).toFixed(3)} nats a token (perplexity ${after.toFixed(2)}; ${before.toFixed(0)} before training), on ${corpus.heldOut} stories that are in no training row |

## How it was made

From random weights, by lowrank's own full fine-tuning: \`node tools/make-tiny-base/make.mjs --stories FILE ...\`
with seed ${seed}; ${steps} steps, ${(tokens / 1e6).toFixed(1)} million tokens, ${minutes.toFixed(0)} minutes
(${settings.join(", ")}).

Text: ${corpus.train.toLocaleString("en")} stories from TinyStories (Eldan and Li, 2023; Community Data License Agreement -
Sharing 1.0), cleaned, each once; some are told as the answer to a request, so that the chat template is known. Mixed in are
${generatedRows.toLocaleString("en")} rows written by rules (tools/make-tiny-base/generated-text.mjs): lists and small JSON records followed
by a sentence about them. The stories are not part of this repository. The quickstart's task is not in the text.

## Tokens

\`<|endoftext|>\` begins every text and ends every text and chat turn; \`<|pad|>\` pads. The chat template writes
\`<|user|>\`, \`<|assistant|>\` or \`<|system|>\` and a line break before a turn.
`;
}
