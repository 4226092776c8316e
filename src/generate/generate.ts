// Generation with a key/value cache and continuous batching: each pass carries the prompts of newly admitted
// requests and one token of every running one, laid end to end. A finished request's slot goes to the next.
// Not here: which token is drawn (sampler.ts), text (text/), HTTP (serve/).

import { Tape } from "../autograd/tape.ts";
import type { Backend, Tensor } from "../backend/backend.ts";
import type { Decoder } from "../models/decoder.ts";
import { decodeToF32, encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import { KeyValueCache } from "./kv-cache.ts";
import { Sampler, type Sampling } from "./sampler.ts";

export interface GenerationRequest {
  readonly promptIds: readonly number[];
  readonly maxNewTokens: number;
  readonly stopIds: readonly number[];
  readonly sampling: Sampling;
  /** Called with each new token, the stop token excluded; returning false ends the request. */
  readonly onToken?: (id: number) => boolean | undefined;
}

export interface GenerationResult {
  /** New tokens, without the stop token. */
  readonly tokenIds: number[];
  readonly finishReason: "stop" | "length";
}

interface Running {
  readonly index: number;
  readonly request: GenerationRequest;
  readonly slot: number;
  readonly sampler: Sampler;
  readonly generated: number[];
  /** Tokens that the next pass feeds in. */
  pending: readonly number[];
}

export interface BatchOptions {
  /** Requests that run at the same time. */
  readonly slots?: number;
  readonly onFinished?: (index: number, result: GenerationResult) => void;
}

const inference = { training: false, seed: 0, pass: 0 };

/** Runs all requests to their ends; results in the order of the requests. */
export async function generateBatch(
  decoder: Decoder,
  requests: readonly GenerationRequest[],
  options: BatchOptions = {},
): Promise<GenerationResult[]> {
  const { backend, config } = decoder;
  const results: GenerationResult[] = [];
  if (requests.length === 0) return results;
  for (const { promptIds } of requests) {
    if (promptIds.length === 0)
      throw new UserError(
        "cannot generate from an empty prompt: the tokenizer adds no BOS token, so give at least one character",
      );
    for (const id of promptIds) {
      if (id < 0 || id >= config.vocabularySize) {
        throw new UserError(
          `token id ${id} of the prompt is outside the model's vocabulary of ${config.vocabularySize}; tokenizer and model do not belong together`,
        );
      }
    }
  }
  const slots = Math.min(options.slots ?? 8, requests.length);
  const capacity = Math.max(...requests.map((r) => r.promptIds.length + r.maxNewTokens));
  const cache = new KeyValueCache(backend, config, slots, capacity);
  const free = Array.from({ length: slots }, (_, i) => slots - 1 - i);
  const running = new Map<number, Running>();
  let admitted = 0;
  try {
    while (admitted < requests.length || running.size > 0) {
      while (free.length > 0 && admitted < requests.length) {
        const request = requests[admitted]!;
        const slot = free.pop()!;
        running.set(slot, {
          index: admitted++,
          request,
          slot,
          sampler: new Sampler(request.sampling),
          generated: [],
          pending: request.promptIds,
        });
      }
      const active = [...running.values()];
      const logits = await nextLogits(backend, decoder, cache, active);
      for (const [i, run] of active.entries()) {
        const finished = advance(
          run,
          logits.subarray(i * config.vocabularySize, (i + 1) * config.vocabularySize),
        );
        if (!finished) continue;
        results[run.index] = finished;
        options.onFinished?.(run.index, finished);
        running.delete(run.slot);
        cache.clear(run.slot);
        free.push(run.slot);
      }
    }
  } finally {
    cache.free();
  }
  return results;
}

/** Draws one token; the result when the request is over. */
function advance(run: Running, logits: Float32Array): GenerationResult | undefined {
  const { request, generated } = run;
  if (request.maxNewTokens <= 0) return { tokenIds: generated, finishReason: "length" };
  const id = run.sampler.next(logits, [...request.promptIds, ...generated]);
  if (request.stopIds.includes(id)) return { tokenIds: generated, finishReason: "stop" };
  generated.push(id);
  run.pending = [id];
  if (request.onToken?.(id) === false) return { tokenIds: generated, finishReason: "stop" };
  return generated.length >= request.maxNewTokens
    ? { tokenIds: generated, finishReason: "length" }
    : undefined;
}

/** One pass over everyone's pending tokens: the logits after each one's last, [n, V]. */
async function nextLogits(
  backend: Backend,
  decoder: Decoder,
  cache: KeyValueCache,
  active: readonly Running[],
): Promise<Float32Array> {
  const ids = active.flatMap((run) => run.pending);
  const { segments, positions } = cache.begin(
    active.map((run) => ({ slot: run.slot, count: run.pending.length })),
  );
  let end = 0;
  const lastRows = active.map((run) => (end += run.pending.length) - 1);
  const uploads = [ids, positions, lastRows].map((values) => {
    const buffer = backend.allocate(4 * values.length, "workspace");
    backend.write(buffer, encodeFrom(values, "i32"));
    return viewOf(buffer, [values.length], "i32");
  }) as [Tensor, Tensor, Tensor];
  using tape = new Tape(backend, false);
  const hidden = decoder.forward(
    tape,
    { ids: uploads[0], positions: uploads[1], segments, length: segments.maxKeys },
    { context: inference, cache },
  );
  const logits = decoder.logits(tape, hidden, uploads[2]);
  tape.run([logits]);
  const bytes = await backend.read(logits.data.buffer);
  for (const tensor of uploads) backend.free(tensor.buffer);
  return decodeToF32(bytes, logits.dtype);
}
