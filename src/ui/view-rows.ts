// Rows as they are trained, token by token: which of them the loss counts, and each token's loss under the base and under
// what was trained. In the analysing process only.

import type { Sample } from "../data/render.ts";
import { rowLabel } from "../data/row.ts";
import { objectives } from "../objectives/index.ts";
import { targetLosses } from "../session/evaluate.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { loadTrainingData } from "../train/training-data.ts";
import type { RowsView, RowView, TokenView } from "./api.ts";
import { type RunJob, withRun } from "./open-run.ts";

export interface RowsJob extends RunJob {
  readonly set: "train" | "eval";
  readonly from: number;
  readonly count: number;
}

/** Tokens of a row that are shown. */
const mostTokens = 2048;
/** Tokens before one that may hold a part of its character. */
const decodedBefore = 4;

export function viewRows(job: RowsJob): Promise<RowsView> {
  return withRun(job, async (run) => {
    const { options, model } = run;
    const data = await loadTrainingData(model.text, options, () => {});
    const samples = job.set === "train" ? data.train : data.evaluation;
    const count = Math.max(0, Math.min(samples.length - job.from, job.count));
    const chosen: (SampleText & { readonly cut: boolean })[] = [];
    for (let i = 0; i < count; i++) {
      for (const text of textsOf(samples.at(job.from + i)!))
        chosen.push({ ...text, sample: beginningOf(text.sample), cut: text.sample.ids.length > mostTokens });
    }
    // To prompts the model writes the answers itself: of their own tokens nothing is learnt.
    const learns = objectives[options.objective].rows !== "prompts";
    const whole = chosen.map(({ sample }) => everyToken(sample));
    const before = learns ? await run.before((base) => lossesOf(base.loaded.decoder, whole)) : undefined;
    const after = learns ? await run.after((tuned) => lossesOf(tuned.loaded.decoder, whole)) : undefined;
    return {
      ...{ set: job.set, from: job.from, count, total: samples.length, step: run.step },
      rows: chosen.map(({ sample, part, cut }, i): RowView => {
        const losses = { before: before?.[i], after: after?.[i] };
        const tokens = tokensOf(sample, model.tokenizer, losses);
        return { label: rowLabel(sample.rowId), ...(part && { part }), cut, tokens };
      }),
    };
  });
}

interface SampleText {
  readonly sample: Sample;
  readonly part?: RowView["part"];
}

/** The texts that a sample is: of a pair, the prompt with each completion, which know nothing of each other. */
function textsOf(sample: Sample): SampleText[] {
  const { ids, targetMask, rowId, fork, label } = sample;
  const rating = label === undefined ? undefined : label ? "wanted" : "unwanted";
  if (!fork) return [{ sample, part: rating }];
  let at = fork.prompt;
  return fork.completions.map((length, i) => {
    const [from, to] = [at, (at += length)];
    const of = <T extends Int32Array | Uint8Array>(all: T) =>
      Uint32Array.from([...all.subarray(0, fork.prompt), ...all.subarray(from, to)]);
    return {
      sample: { ids: Int32Array.from(of(ids)), targetMask: Uint8Array.from(of(targetMask)), rowId },
      part: rating ?? (i === 0 ? "chosen" : "rejected"),
    };
  });
}

/** Row by row, so that a long one takes no more memory than it must. */
async function lossesOf(
  decoder: Parameters<typeof targetLosses>[0],
  samples: readonly Sample[],
): Promise<Float32Array[]> {
  const losses: Float32Array[] = [];
  for (const sample of samples) losses.push(...(await targetLosses(decoder, [sample])));
  return losses;
}

function beginningOf(sample: Sample): Sample {
  if (sample.ids.length <= mostTokens) return sample;
  const { ids, targetMask, rowId } = sample;
  return { ids: ids.slice(0, mostTokens), targetMask: targetMask.slice(0, mostTokens), rowId };
}

/** The same row with a loss for every token but the first, which follows nothing. */
function everyToken({ ids, rowId }: Sample): Sample {
  const targetMask = new Uint8Array(ids.length).fill(1);
  targetMask[0] = 0;
  return { ids, targetMask, rowId };
}

function tokensOf(
  { ids, targetMask }: Sample,
  tokenizer: Tokenizer,
  losses: { readonly before?: Float32Array; readonly after?: Float32Array },
): TokenView[] {
  return Array.from(ids, (id, i): TokenView => {
    const start = Math.max(0, i - decodedBefore);
    const prefix = tokenizer.decode([...ids.slice(start, i)], { skipSpecialTokens: false });
    const through = tokenizer.decode([...ids.slice(start, i + 1)], { skipSpecialTokens: false });
    const text = through.startsWith(prefix) ? through.slice(prefix.length) : (tokenizer.tokenOf(id) ?? "");
    const [before, after] = [losses.before?.[i - 1], losses.after?.[i - 1]];
    return {
      ...{ id, text, target: targetMask[i] === 1 },
      ...(before !== undefined && { before }),
      ...(after !== undefined && { after }),
    };
  });
}
