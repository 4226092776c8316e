// What both kinds of answers share: running a choice, the head of what is sent, and the usage at its end. Chats are
// openai.ts, completions completion.ts.

import { randomBytes } from "node:crypto";
import type { EngineThread } from "./engine-thread.ts";
import type { Job, JobResult, Piece } from "./jobs.ts";
import type { ChatSettings, CompletionSettings } from "./requests.ts";

export interface Answering {
  readonly engine: EngineThread;
  readonly signal: AbortSignal;
  /** Most new tokens of a choice. */
  readonly maxTokens: number;
  /** Told of every piece and every end, for metrics. */
  readonly onPiece: () => void;
  readonly onDone: (result: JobResult) => void;
  /** Present for a stream: sends one chunk. */
  readonly send?: (chunk: unknown) => void;
}

export async function run(
  answering: Answering,
  job: Job,
  onPiece: (piece: Piece) => void,
): Promise<JobResult> {
  const told = (piece: Piece) => {
    if (!piece.prompt) answering.onPiece();
    onPiece(piece);
  };
  const result = await answering.engine.run(job, told, answering.signal);
  answering.onDone(result);
  return result;
}

export function heading(prefix: string, body: { readonly model: string }, object: string) {
  const id = `${prefix}-${randomBytes(12).toString("hex")}`;
  return { id, object, created: Math.floor(Date.now() / 1000), model: body.model };
}

export function finishAnswer(
  head: object,
  choices: readonly { readonly result: JobResult; readonly choice: object }[],
  body: ChatSettings | CompletionSettings,
  send: Answering["send"],
  /** Choices that share a prompt, which is counted once. */
  share = choices.length,
): unknown {
  const prompt = choices.reduce((sum, { result }, i) => sum + (i % share === 0 ? result.promptTokens : 0), 0);
  const completion = choices.reduce((sum, { result }) => sum + result.completionTokens, 0);
  const cached = choices.reduce((sum, { result }, i) => sum + (i % share === 0 ? result.cachedTokens : 0), 0);
  const usage = {
    ...{ prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion },
    prompt_tokens_details: { cached_tokens: cached },
  };
  if (send && body.stream_options?.include_usage) send({ ...head, choices: [], usage });
  return { ...head, choices: choices.map(({ choice }) => choice), usage };
}
