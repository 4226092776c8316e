// Whether generation would send, for a row that was trained, the text that precedes the answer in training. Tried on the
// first rows and an even spread of the rest while they are rendered (dataset.node.ts); preflight.ts tells.

import { UserError } from "../util/errors.ts";
import { type Rendering, renderPrompt, type Sample } from "./render.ts";
import type { Example } from "./row.ts";

const mostTried = 200;

/** Every how many rows one is tried. */
export function roundTripStride(rows: number): number {
  return Math.max(1, Math.floor(rows / mostTried));
}

/** True where the prompt differs, or where the template cannot make one. */
export function promptDiffers(example: Example, { ids }: Sample, rendering: Rendering): boolean {
  let prompt: ReturnType<typeof renderPrompt>;
  try {
    prompt = renderPrompt(example, rendering);
  } catch (error) {
    if (error instanceof UserError) return true;
    throw error;
  }
  if (!prompt) return false;
  const start = Math.min(prompt.ids.length, ids.length);
  // A tokenizer may join the prompt's last characters with the answer's first: one token's difference is none.
  let shared = 0;
  while (shared < start && ids[shared] === prompt.ids[shared]) shared++;
  return shared < start - 1;
}
