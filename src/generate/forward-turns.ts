// One forward pass of the generation engine: the tokens of everyone who takes part, end to end, with their adapters' rows;
// logits come back after the last token of those whose prompt is in, or where nobody needs more the likeliest tokens alone,
// and what was asked of prompts' own tokens is told. Who takes part: turns.ts. What becomes of the logits: engine.ts.

import { Tape, type Value } from "../autograd/tape.ts";
import type { Backend, Tensor } from "../backend/backend.ts";
import type { AdapterSet } from "../models/adapter-set.ts";
import type { Decoder } from "../models/decoder.ts";
import type { AdapterRows } from "../nn/module.ts";
import { ownedToF32 } from "../tensor/dtype.ts";
import { KeptUpload } from "./kept-upload.ts";
import type { KeyValueCache } from "./kv-cache.ts";
import { tellPromptLogprobs } from "./prompt-logprobs.ts";
import { RepeatedPasses } from "./repeated-passes.ts";
import type { GenerationRequest } from "./request.ts";
import { isShort } from "./turns.ts";

/** A request at work, as far as a pass goes. */
export interface PassRun {
  readonly request: GenerationRequest;
  readonly slot: number;
  /** Tokens that enter together: the prompt, or the whole text where its keys and values are computed anew. */
  readonly entering: readonly number[];
  /** Tokens of the prompt that were told of, where that was asked for. */
  readonly told: number;
}

/** A run's tokens of the coming pass, in pieces. */
export interface RunTokens<Run extends PassRun = PassRun> {
  readonly run: Run;
  readonly ids: readonly number[];
  readonly pieces: readonly number[];
  /** They end its text, and a token is drawn. */
  readonly draws: boolean;
}

interface Asking {
  /** Tokens that a request knows. */
  readonly vocabularyOf: (request: GenerationRequest) => number;
  /** Nobody waits for the request any more. */
  readonly gone: (request: GenerationRequest) => boolean;
  /** The likeliest token is all that it needs to know, whichever of the model's. */
  readonly greedy: (run: PassRun) => boolean;
}

/** What those who draw a token need of a pass, in the order of its turns: a row of logits [V] or the likeliest token. */
export type Drawable = { readonly logits: Float32Array } | { readonly likeliest: Int32Array };

/** What passes leave for one another: memory and recordings. */
export class PassMemory {
  readonly ids: KeptUpload;
  readonly places: KeptUpload;
  readonly lastRows: KeptUpload;
  readonly repeated: RepeatedPasses;
  constructor(backend: Backend) {
    [this.ids, this.places, this.lastRows] = [0, 1, 2].map(() => new KeptUpload(backend)) as [
      KeptUpload,
      KeptUpload,
      KeptUpload,
    ];
    this.repeated = new RepeatedPasses(backend);
  }
  free(): void {
    for (const held of [this.repeated, this.ids, this.places, this.lastRows]) held.free();
  }
}

const inference = { training: false, seed: 0, pass: 0 };

/** What everyone needs who draws a token after this pass. */
export async function forwardTurns(
  decoder: Decoder,
  cache: KeyValueCache,
  turns: readonly RunTokens[],
  memory: PassMemory,
  asking: Asking,
): Promise<Drawable> {
  const { backend } = decoder;
  const tokens = turns.flatMap(({ run, pieces }) => pieces.map((count) => ({ run, slot: run.slot, count })));
  const { segments, starts } = cache.begin(tokens);
  // A prompt that enters in several passes is as long in the first as in the last.
  const placed = decoder.ropeCache.place(
    tokens.map(({ run, count }, i) => {
      const start = starts[i]!;
      return { start, count, length: Math.max(run.entering.length, start + count) };
    }),
  );
  const places = [...placed.rows];
  const all: number[] = [];
  const prompts = turns.some(({ run }) => cache.lengthOf(run.slot) <= run.entering.length);
  const lastRows: number[] = [];
  const adapterRows: AdapterRows[] = [];
  const headRows: AdapterRows[] = [];
  const scored: { run: PassRun; firstRow: number; firstToken: number; targets: readonly number[] }[] = [];
  for (const { run, ids, pieces, draws } of turns) {
    const start = all.length;
    for (const id of ids) all.push(id);
    const { request } = run;
    if (draws) lastRows.push(all.length - 1);
    const fed = cache.lengthOf(run.slot) - ids.length;
    if (request.promptLogprobs !== undefined && run.entering === request.promptIds) {
      // Of a prompt that enters for a second time, what was told is not told again.
      const firstToken = Math.max(fed + 1, run.told);
      const targets = run.entering.slice(firstToken, fed + ids.length + 1);
      if (targets.length > 0)
        scored.push({ run, firstRow: start + firstToken - fed - 1, firstToken, targets });
    }
    if (!request.adapter) continue;
    // A piece of a prompt has its adapter's products alone; answers with the same adapter share them.
    let from = start;
    for (const count of pieces) {
      extendRows(adapterRows, request.adapter, from, from + count, prompts);
      from += count;
    }
    if (draws) extendRows(headRows, request.adapter, lastRows.length - 1, lastRows.length);
  }
  const { few, many } = backend.rowsAlike;
  // A pass of prompts is of short ones or of others.
  const short = turns.some(({ run }) => isShort(run.entering.length, backend.rowsAlike));
  if (prompts && many && !short) {
    // Rows of no sequence: then the device computes these, too, in the way of many rows.
    for (; all.length <= few; all.push(0)) places.push(0);
  }
  const ids = memory.ids.write(all);
  const rows = memory.places.write(places);
  const last = memory.lastRows.write(lastRows);
  const perLayer = decoder.perLayer?.rows(all);
  const batch = { ids, rows, tables: placed.tables, segments, perLayer };
  const forward = (tape: Tape) =>
    decoder.forward(tape, batch, { context: { ...inference, adapterRows }, cache });
  const draw = (tape: Tape, hidden: Value) => {
    const logits = decoder.logits(tape, hidden, last, { ...inference, adapterRows: headRows });
    tape.run([logits]);
    return tape.takeData(logits);
  };
  try {
    if (scored.length > 0 || lastRows.length === 0) {
      using tape = new Tape(backend, false);
      const hidden = forward(tape);
      tape.run([hidden]);
      for (const { run, ...place } of scored) {
        await tellPromptLogprobs(decoder, hidden.data, {
          ...place,
          adapter: run.request.adapter,
          vocabularySize: asking.vocabularyOf(run.request),
          count: run.request.promptLogprobs!,
          gone: () => asking.gone(run.request),
          tell: (told) => run.request.onPrompt?.(told),
        });
      }
      if (lastRows.length === 0) return { logits: new Float32Array(0) };
      return await take(draw(tape, hidden));
    }
    // A token of everyone, beside the same tables and adapters: the calls of another such pass.
    const alike = !prompts && lastRows.length === all.length && all.length === turns.length && !perLayer;
    const adapters = adapterRows.flatMap(({ start, end, layers }) => [start, end, layers]);
    const key = alike ? [all.length, ...placed.tables, ...adapters] : undefined;
    const logits = memory.repeated.run(key, () => {
      using tape = new Tape(backend, false);
      return draw(tape, forward(tape));
    });
    return await take(logits);
  } finally {
    if (perLayer) backend.free(perLayer.buffer);
  }

  async function take(logits: Tensor): Promise<Drawable> {
    try {
      if (backend.largestOfRows && turns.every(({ run, draws }) => !draws || asking.greedy(run)))
        return { likeliest: await backend.largestOfRows(logits) };
      return { logits: ownedToF32(await backend.read(logits.buffer), logits.dtype) };
    } finally {
      memory.repeated.release(logits);
    }
  }
}

/** Adds rows of an adapter; rows that follow its earlier ones join them. */
function extendRows(
  groups: AdapterRows[],
  { layers, replaced, embedding }: AdapterSet,
  start: number,
  end: number,
  apart = false,
): void {
  const before = groups.at(-1);
  if (!apart && before?.layers === layers && before.end === start)
    groups[groups.length - 1] = { ...before, end };
  else groups.push({ start, end, layers, replaced, embedding });
}
