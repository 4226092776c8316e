// Whether generation would send, for a row that was trained, the text that precedes the answer in training. Tried on the
// first rows and ever fewer of the rest while they are rendered (sample-builder.ts); preflight.ts tells.

import { UserError } from "../util/errors.ts";
import { type Rendering, renderPrompt, type Sample } from "./render.ts";
import type { Example } from "./row.ts";

/** So many of the first rows, and of each doubling of them after that. */
const triedOfDoubling = 32;

/** Whether the row with this number, from 0, is one that is tried. How many rows there are need not be known. */
export function triesRow(row: number): boolean {
  if (row < 2 * triedOfDoubling) return true;
  const stride = 2 ** Math.floor(Math.log2(row / triedOfDoubling));
  return row % stride === 0;
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
