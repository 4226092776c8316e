// Log-probabilities of a prompt's own tokens, in nats, from the model's own logits: rows of hidden states go through the
// head some at a time, so that all logits never exist at once, and only numbers of those asked for are kept. A request's
// rows are alone in these calls, which are cut by its prompt and the vocabulary: nothing beside them changes a bit.
// Log-probabilities of drawn tokens: token-logprobs.ts.

import { Tape } from "../autograd/tape.ts";
import type { Tensor } from "../backend/backend.ts";
import type { AdapterSet } from "../models/adapter-set.ts";
import type { Decoder } from "../models/decoder.ts";
import { decodeToF32, encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import { nextTurn } from "./next-turn.ts";

/** Of n tokens of a prompt that follow each other. */
export interface PromptLogprobs {
  /** Place in the prompt of the first of them. */
  readonly start: number;
  /** Of each token, given those before it: [n]. */
  readonly logprobs: Float64Array<ArrayBuffer>;
  /** 1: no other token was likelier. [n] */
  readonly ranks: Int32Array<ArrayBuffer>;
  /** The likeliest tokens in the place of each, best first: [n, count]. */
  readonly topIds: Int32Array<ArrayBuffer>;
  readonly topLogprobs: Float64Array<ArrayBuffer>;
}

export interface PromptRows {
  /** Row of the hidden states from which the first target is predicted; the others follow it. */
  readonly firstRow: number;
  /** Place in the prompt of the first target. */
  readonly firstToken: number;
  /** Tokens to be told of. */
  readonly targets: readonly number[];
  readonly adapter: AdapterSet | undefined;
  /** Tokens that share the probability; the decoder may have more for its adapters' sake. */
  readonly vocabularySize: number;
  /** Likeliest tokens to tell beside each. */
  readonly count: number;
  /** Nobody waits any more. */
  readonly gone: () => boolean;
  readonly tell: (told: PromptLogprobs) => void;
}

/** Logits that exist at a time. */
const chunkBytes = 16 * 2 ** 20;
const mostRows = 256;

/** Tells of the targets, some at a time; ends early once nobody waits. */
export async function tellPromptLogprobs(
  decoder: Decoder,
  hidden: Tensor, // [T, C]
  { firstRow, firstToken, targets, gone, tell, ...asked }: PromptRows,
): Promise<void> {
  const count = Math.min(asked.count, asked.vocabularySize);
  const { few } = decoder.backend.rowsAlike;
  const fitting = Math.floor(chunkBytes / (4 * decoder.config.vocabularySize));
  const most = Math.max(few + 1, Math.min(mostRows, fitting));
  for (let start = 0; start < targets.length && !gone(); start += most) {
    const chunk = targets.slice(start, start + most);
    tell({
      start: firstToken + start,
      ...(await chunkLogprobs(decoder, hidden, firstRow + start, chunk, { ...asked, count })),
    });
    await nextTurn();
  }
}

async function chunkLogprobs(
  decoder: Decoder,
  hidden: Tensor,
  firstRow: number,
  targets: readonly number[],
  { adapter, vocabularySize, count }: Pick<PromptRows, "adapter" | "vocabularySize" | "count">,
): Promise<Omit<PromptLogprobs, "start">> {
  const { backend, config } = decoder;
  const width = config.vocabularySize;
  const n = targets.length;
  // Few rows would be computed in another way than many: the last of few is repeated.
  const rows = Math.max(n, backend.rowsAlike.few + 1);
  const padded = (at: (i: number) => number) =>
    Array.from({ length: rows }, (_, i) => at(Math.min(i, n - 1)));
  const uploads: Tensor[] = [];
  const upload = (values: readonly number[]) => {
    const buffer = backend.allocate(4 * values.length, "workspace");
    const tensor = viewOf(buffer, [values.length], "i32");
    uploads.push(tensor);
    backend.write(buffer, encodeFrom(values, "i32"));
    return tensor;
  };
  try {
    using tape = new Tape(backend, false);
    const { layers, replaced } = adapter ?? {};
    const adapterRows = layers && [{ start: 0, end: rows, layers, replaced }];
    const context = { training: false, seed: 0, pass: 0, adapterRows };
    const from = upload(padded((i) => firstRow + i));
    const value = decoder.logits(tape, tape.input(hidden), from, context);
    tape.run([value]);
    const losses = await lossesOf(tape, value.data, upload(padded((i) => targets[i]!)), vocabularySize);
    const logits = decodeToF32(await backend.read(value.data.buffer), value.dtype);
    const told = {
      logprobs: new Float64Array(n),
      ranks: new Int32Array(n),
      topIds: new Int32Array(n * count),
      topLogprobs: new Float64Array(n * count),
    };
    for (let i = 0; i < n; i++) {
      const row = logits.subarray(i * width, i * width + vocabularySize);
      const target = row[targets[i]!]!;
      const logSum = losses ? losses[i]! + target : logSumOf(row);
      const top = likeliest(row, count);
      told.logprobs[i] = target - logSum;
      told.ranks[i] = rankOf(row, target);
      for (const [k, id] of top.entries()) {
        told.topIds[i * count + k] = id;
        told.topLogprobs[i * count + k] = row[id]! - logSum;
      }
    }
    return told;
  } finally {
    for (const { buffer } of uploads) backend.free(buffer);
  }
}

/** The device's own cross-entropies, unless rows of the head beyond the vocabulary would share the probability. */
async function lossesOf(
  tape: Tape,
  logits: Tensor,
  targets: Tensor,
  vocabularySize: number,
): Promise<Float32Array | undefined> {
  if (vocabularySize !== logits.shape[1]) return undefined;
  const { backend } = tape;
  const loss = tape.allocateTensor([logits.shape[0]!], "workspace");
  try {
    backend.crossEntropy({ logits, targets, loss, dLogits: undefined, gradScale: 0 });
    return decodeToF32(await backend.read(loss.buffer), loss.dtype);
  } finally {
    backend.free(loss.buffer);
  }
}

function logSumOf(row: Float32Array): number {
  let largest = Number.NEGATIVE_INFINITY;
  for (const value of row) if (value > largest) largest = value;
  let sum = 0;
  for (const value of row) sum += Math.exp(value - largest);
  return largest + Math.log(sum);
}

function rankOf(row: Float32Array, target: number): number {
  let rank = 1;
  for (const value of row) if (value > target) rank++;
  return rank;
}

/** The `count` largest, largest first; of equals the first. */
function likeliest(row: Float32Array, count: number): number[] {
  const top: number[] = [];
  let least = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < row.length && count > 0; id++) {
    const value = row[id]!;
    if (top.length === count && !(value > least)) continue;
    let at = top.length;
    while (at > 0 && value > row[top[at - 1]!]!) at--;
    top.splice(at, 0, id);
    if (top.length > count) top.pop();
    least = row[top.at(-1)!]!;
  }
  return top;
}
