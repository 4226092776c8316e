// Quality of one run on the evaluation rows, by `eval`'s own measure (measure/measure.ts), kept row by row so that
// intervals can be drawn from it. Results lie in the run's folder and are read again when nothing has changed.

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openBackend } from "../backend/index.ts";
import type { CompareOptions } from "../config/compare-options.ts";
import type { Method } from "../config/fields.ts";
import { openDataFile } from "../data/read-rows.node.ts";
import { broadcastValue, type Collective, gatherValues } from "../distributed/collective.ts";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import { locateModel } from "../formats/locate-model.ts";
import { measure } from "../measure/measure.ts";
import { openModel } from "../models/open-model.ts";
import { quantizeOnArrival } from "../models/quantized-weights.ts";
import { backendOfRank } from "../train/ranks.ts";
import { UserError } from "../util/errors.ts";

export interface Quality {
  /** Of the run; absent for the base. */
  readonly seed?: number;
  /** By name: perplexity, loss, rouge1, ... */
  readonly scores: Readonly<Record<string, number>>;
  readonly losses?: readonly { readonly lossSum: number; readonly targetTokens: number }[];
  readonly answers?: readonly { readonly prediction: string; readonly references: readonly string[] }[];
}

/** What is measured: the base itself, or what a run made of it. */
export interface Subject {
  readonly method: Method | "base";
  /** The run's folder; for the base, where its scores are kept. */
  readonly folder: string;
}

export async function scoreOne(
  options: CompareOptions,
  { method, folder }: Subject,
  tell: (message: string) => void,
  collective: Collective,
): Promise<Quality> {
  const path = join(folder, "quality.json");
  const key = await keyOf(options);
  const cached = await broadcastValue(
    collective,
    collective.rank === 0 ? await readKept(path, key) : undefined,
  );
  if (cached) return cached;
  if (method !== "base") await requireShared(collective, folder);
  using backend = await openBackend(options.backend, {
    precision: options.precision,
    ...(await backendOfRank(collective, options, tell, tell)),
  });
  const base = locateModel(options.model);
  await using model = await openModel(backend, method === "full" ? folder : base, {
    adapter: method === "lora" || method === "qlora" ? folder : undefined,
    quantize: method === "qlora" ? quantizeOnArrival(backend, options.quantType) : undefined,
    tell,
    text: { chatTemplate: options.chatTemplate, eosToken: options.eosToken, padToken: options.padToken },
  });
  const { evalData: data, metrics, maxNewTokens, trainOn } = options;
  const { overLength, batchSize, sequenceLength } = options;
  const { scores, losses, predictions } = await measure(
    model,
    { data, metrics, maxNewTokens, trainOn, overLength, batchSize, sequenceLength },
    { warn: tell, collective },
  );
  const answers = predictions?.map(({ prediction, references }) => ({ prediction, references }));
  const quality: Quality = { scores, losses, answers };
  if (collective.rank === 0) await writeFileAtomic(path, `${JSON.stringify({ key, quality })}\n`);
  return quality;
}

async function readKept(path: string, key: string): Promise<Quality | undefined> {
  const text = await readFile(path, "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  const kept = JSON.parse(text) as { key: string; quality: Quality };
  return kept.key === key ? kept.quality : undefined;
}

/** What rank 0 trained must be there on all ranks to be measured by them. */
async function requireShared(collective: Collective, folder: string): Promise<void> {
  const found = await gatherValues(collective, existsSync(folder));
  const without = found.indexOf(false);
  if (without < 0) return;
  throw new UserError(
    `${collective.nameOf(without)} does not see ${folder}: compare on several ranks needs an --out that all of them share`,
  );
}

async function keyOf(options: CompareOptions): Promise<string> {
  const { metrics, maxNewTokens, trainOn, chatTemplate, overLength, sequenceLength, precision } = options;
  const { eosToken, padToken, quantType } = options;
  const { hash } = await openDataFile(options.evalData);
  const parts = {
    eosToken,
    padToken,
    quantType,
    hash,
    metrics,
    maxNewTokens,
    trainOn,
    chatTemplate,
    overLength,
    sequenceLength,
    precision,
  };
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16);
}
