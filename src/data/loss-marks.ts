// Marks that a message carries to say whether its words bear loss. Several tools have one each; a conversation written for
// any of them is trained as its author meant. They are taken off the message, because a served model never sees them.
// Which turns they leave is turnsWithLoss(); finding those turns in the text: text/chat-template.ts.

import { UserError } from "../util/errors.ts";
import { type Example, kindOf } from "./row.ts";

/**
 * `weight`: OpenAI, Mistral, Together, Fireworks. `loss_weight`: LLaMA-Factory. `loss_scale`: ms-swift. `train`, `training`: Axolotl. `trainable`:
 * Tinker. `loss`: ms-swift, XTuner. `masked`: torchtune, where true means no loss.
 */
const numbers = ["weight", "loss_weight", "loss_scale"];
const booleans = ["train", "training", "trainable", "loss", "masked"];
/** Axolotl's marks on parts of a message. */
const details = ["train_detail", "training_detail"];

export const markKeys: ReadonlySet<string> = new Set([...numbers, ...booleans, ...details]);

/** What a message's marks say, undefined when it has none. UserError for values that are no marks, or that disagree. */
export function readMark(message: Readonly<Record<string, unknown>>, where: string): boolean | undefined {
  let said: { key: string; learnt: boolean } | undefined;
  for (const key of markKeys) {
    const value = message[key];
    if (value === undefined || value === null) continue;
    if (details.includes(key)) {
      if (Array.isArray(value) && value.length === 0) continue;
      throw new UserError(
        `${where}: ${JSON.stringify(key)} marks parts of a message, which is not supported; mark whole messages with "train": true or false.`,
      );
    }
    const given = value instanceof Number ? value.valueOf() : value;
    const truth = given === 1 ? true : given === 0 ? false : booleans.includes(key) ? given : undefined;
    if (typeof truth !== "boolean") {
      const expected = numbers.includes(key) ? "0 (no loss on this message) or 1" : "true or false";
      throw new UserError(`${where}: ${JSON.stringify(key)} must be ${expected}, found ${shown(given)}.`);
    }
    const learnt = key === "masked" ? !truth : truth;
    if (said !== undefined && said.learnt !== learnt) {
      throw new UserError(
        `${where}: ${JSON.stringify(said.key)} and ${JSON.stringify(key)} disagree about whether this message is learnt; keep one of them.`,
      );
    }
    said = { key, learnt };
  }
  return said?.learnt;
}

function shown(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.slice(0, 40));
  return typeof value === "number" || typeof value === "bigint" ? `${value}` : kindOf(value);
}

type Chat = Extract<Example, { kind: "chat" }>;

/**
 * For each message, whether the loss is on it. Without a word of the user these are the assistant's turns, or those of
 * the completion where there is one; marks take turns away. UserError when a mark asks for what cannot be learnt.
 */
export function turnsWithLoss(
  chat: Chat,
  trainOn: "completions" | "assistant" | "all" | undefined,
): boolean[] {
  const { messages, marks, completionFrom } = chat;
  const mode = trainOn ?? (completionFrom === undefined ? "assistant" : "completions");
  const lastTurn = messages.findLastIndex(({ role }) => role === "assistant");
  const from = mode === "completions" ? (completionFrom ?? lastTurn) : 0;
  return messages.map(({ role }, i) => {
    if (role === "assistant") return marks?.[i] !== false && i >= from;
    if (marks?.[i] === true && mode !== "all") {
      throw new UserError(
        `message ${i + 1} is marked to be learnt, but its role is ${JSON.stringify(role)}: only what the assistant says can be learnt by itself. Remove the mark, or learn everything with --train-on all.`,
      );
    }
    return mode === "all";
  });
}
