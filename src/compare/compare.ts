// The main path of a comparison: for each method and rank find a learning rate, train, measure on the evaluation rows,
// and put one row into the table; with --keep, then look for the cheapest adapter that is good enough (keep.ts). Each
// run is a folder of its own, so that an interrupted comparison continues where it stopped.

import { join } from "node:path";
import type { CompareOptions } from "../config/compare-options.ts";
import type { Method } from "../config/fields.ts";
import { resolveOptions } from "../config/resolve.ts";
import { trainDefinition } from "../config/train-options.ts";
import type { Collective } from "../distributed/collective.ts";
import { joinRanks } from "../distributed/join.node.ts";
import { makeFolder } from "../formats/make-folder.ts";
import { matchTargets, newAdapterConfig } from "../formats/peft.ts";
import { FOLDER_LOCK, lockPlace } from "../formats/place-lock.ts";
import { adaptableLayers, allLinear } from "../models/adaptable-layers.ts";
import { lastParts, parseTargets } from "../models/target-names.ts";
import { readShape } from "../plan/shape.ts";
import type { TrainEvent } from "../train/events.ts";
import { DivergedError, UserError } from "../util/errors.ts";
import { searchKeep } from "./keep.ts";
import { type Searched, searchLearningRate } from "./learning-rate.ts";
import { gainOf, keptOf, qualityName, scoreIntervals, scoreNames } from "./quality-kept.ts";
import type { ComparedRow, KeepResult } from "./row.ts";
import { type Quality, scoreOne } from "./score-one.ts";
import { type Interruption, type RunSpec, runName, type TrainedRun, trainOne } from "./train-one.ts";

export interface Comparison {
  readonly status: "done" | "interrupted";
  readonly model: string;
  readonly data: string;
  readonly evalData: string;
  readonly seed: number;
  readonly metrics: readonly string[];
  /** The score that stands for quality. */
  readonly quality: string;
  readonly rows: readonly ComparedRow[];
  readonly runs: number;
  readonly keep?: KeepResult;
}

export interface CompareHooks {
  tell(message: string): void;
  /** Events of the run that is going on. */
  event(event: TrainEvent): void;
  /** Called with the result while the folder is still this comparison's alone. */
  finish?(comparison: Comparison): Promise<void>;
  /** URL of another engine (tests). */
  readonly engine?: string;
}

export async function compare(
  options: CompareOptions,
  interruption: Interruption,
  hooks: CompareHooks,
): Promise<Comparison> {
  const quality = qualityName(options.metrics, options.quality);
  const collective = await joinRanks(options);
  if (collective.rank > 0) {
    return await new Comparing(options, interruption, hooks, quality, collective).run();
  }
  const base = join(options.out, "base");
  const made = (error: NodeJS.ErrnoException) => {
    throw new UserError(`--out ${options.out}: the folder cannot be made (${error.code})`);
  };
  await makeFolder(options.out).catch(made);
  const lock = await lockPlace(join(options.out, FOLDER_LOCK), {
    place: `--out ${options.out}`,
    instead: "give another folder",
    onWait: hooks.tell,
  });
  try {
    await makeFolder(base).catch(made);
    const comparison = await new Comparing(options, interruption, hooks, quality, collective).run();
    await hooks.finish?.(comparison);
    return comparison;
  } finally {
    lock.release();
  }
}

export class Comparing {
  private readonly rows: ComparedRow[] = [];
  private readonly runs = new Set<string>();
  private full: Quality | undefined;
  private base: Quality | undefined;
  /** The learning rate that each adapter method settled on; further ranks start from it. */
  private readonly settled = new Map<Method, number>();
  /** Of the smallest side of a targeted layer: no adapter can have more. */
  largestRank = 0;

  constructor(
    readonly options: CompareOptions,
    readonly interruption: Interruption,
    private readonly hooks: CompareHooks,
    readonly quality: string,
    private readonly collective: Collective,
  ) {}

  async run(): Promise<Comparison> {
    const { options } = this;
    this.largestRank = await largestRankOf(options);
    await this.addBase();
    const methods = [...options.methods].sort((a, b) => order.indexOf(a) - order.indexOf(b));
    for (const method of methods) {
      for (const rank of method === "full" ? [0] : [...options.ranks].sort((a, b) => a - b)) {
        if (!(await this.addTuned(method, rank))) return this.result("interrupted");
      }
    }
    if (options.keep === undefined) return this.result("done");
    const keep = await searchKeep(this, options.keep);
    return keep === undefined ? this.result("interrupted") : { ...this.result("done"), keep };
  }

  get trainedRuns(): number {
    return this.runs.size;
  }

  get comparedRows(): readonly ComparedRow[] {
    return this.rows;
  }

  /** Trains one run and measures it, without a search; its row, or undefined when interrupted. */
  async addAt(method: Method, rank: number, learningRate: number): Promise<ComparedRow | undefined> {
    const known = this.rows.find((row) => row.method === method && row.rank === rank);
    if (known) return known;
    const searched = await searchLearningRate(
      { start: learningRate, grid: [learningRate], mostRuns: 1 },
      (rate) => this.train({ method, rank, learningRate: rate }),
    );
    return searched && this.addRow(method, rank, searched);
  }

  rateOf(method: Method): number {
    return (
      this.settled.get(method) ??
      // The base in 4 bits hardly moves the best rate of an adapter.
      (method === "qlora" ? this.settled.get("lora") : undefined) ??
      resolveOptions(trainDefinition, { model: "-", data: "-", out: "-", method }).learningRate
    );
  }

  private async addBase(): Promise<void> {
    const folder = join(this.options.out, "base");
    this.hooks.tell("measuring the base model");
    const quality = await scoreOne(
      this.options,
      { method: "base", folder },
      this.hooks.tell,
      this.collective,
    );
    this.base = quality;
    this.rows.push({
      ...{
        name: "base",
        method: "base",
        rank: 0,
        tried: [],
        atEdge: false,
        trainableParameters: 0,
        course: [],
      },
      ...this.scored(quality),
    });
  }

  private async addTuned(method: Method, rank: number): Promise<boolean> {
    const { options } = this;
    const grid = ratesIn(method === "full" ? options.fullLearningRates : options.learningRates);
    // A further rank of the same method starts where the first one settled, and needs fewer runs.
    const near = this.settled.has(method) || (method === "qlora" && this.settled.has("lora"));
    const mostRuns = near ? Math.min(3, options.gridRuns) : options.gridRuns;
    const search = { start: this.rateOf(method), grid, mostRuns, near };
    const searched = await searchLearningRate(search, (learningRate) =>
      this.train({ method, rank, learningRate }),
    );
    return searched !== undefined && (await this.addRow(method, rank, searched)) !== undefined;
  }

  private async train(spec: RunSpec) {
    const { interruption, hooks, options } = this;
    const { learningRate } = spec;
    this.runs.add(runName(spec));
    hooks.tell(`run ${this.runs.size}: ${runName(spec)}`);
    try {
      const run = await trainOne(options, spec, interruption, hooks.event, this.collective, hooks.engine);
      if (!run) return undefined;
      hooks.tell(`  validation loss ${run.validationLoss.toFixed(4)}`);
      return { learningRate, loss: run.validationLoss, run };
    } catch (error) {
      if (!(error instanceof DivergedError)) throw error;
      hooks.tell("  diverged");
      return { learningRate, loss: Number.POSITIVE_INFINITY, run: undefined };
    }
  }

  private async addRow(
    method: Method,
    rank: number,
    { best, tried, atEdge }: Searched<TrainedRun>,
  ): Promise<ComparedRow> {
    const run = best?.run;
    if (!best || !run) {
      throw new UserError(
        `${method}${rank > 0 ? ` at rank ${rank}` : ""}: every learning rate tried diverged (${tried.map((one) => one.learningRate).join(", ")}); give lower ones with ${method === "full" ? "--full-learning-rates" : "--learning-rates"}`,
      );
    }
    if (!this.settled.has(method)) this.settled.set(method, best.learningRate);
    const quality = await scoreOne(
      this.options,
      { method, folder: run.folder },
      this.hooks.tell,
      this.collective,
    );
    if (method === "full") this.full = quality;
    // The base was measured before there was anything to compare it with.
    if (method === "full" && this.base) this.rows[0] = { ...this.rows[0]!, ...this.scored(this.base) };
    const { price } = this.options;
    const row: ComparedRow = {
      name: rank > 0 ? `${method}-r${rank}` : method,
      ...{ method, rank, atEdge, learningRate: best.learningRate },
      tried: tried.map(({ learningRate, loss }) => ({
        learningRate,
        validationLoss: Number.isFinite(loss) ? loss : null,
      })),
      trainableParameters: run.trainableParameters,
      peakBytes: run.peakBytes,
      tokensPerSecond: run.tokensPerSecond,
      seconds: run.seconds,
      ...(price === undefined ? {} : { cost: (price * run.seconds) / 3600 }),
      folder: run.folder,
      course: run.course,
      ...this.scored(quality),
    };
    this.rows.push(row);
    return row;
  }

  private scored(quality: Quality): Pick<ComparedRow, "scores" | "intervals" | "kept" | "gained"> {
    const { metrics, seed } = this.options;
    const scores = Object.fromEntries(scoreNames(metrics).map((name) => [name, quality.scores[name]!]));
    const intervals = scoreIntervals(quality, metrics, seed);
    const { full, base } = this;
    return {
      scores,
      intervals,
      kept: full && keptOf(quality, full, metrics, this.quality, seed),
      gained: full && base && gainOf(quality.scores, full.scores, base.scores, this.quality),
    };
  }

  private result(status: Comparison["status"]): Comparison {
    const { model, data, evalData, seed, metrics } = this.options;
    return {
      ...{ status, model, data, evalData, seed, metrics },
      quality: this.quality,
      rows: this.rows,
      runs: this.runs.size,
    };
  }
}

async function largestRankOf({ model, targets }: CompareOptions): Promise<number> {
  const { config } = await readShape(model);
  const asked = parseTargets(targets, lastParts(adaptableLayers(config).map(({ name }) => name)));
  const layers = (asked === "all-linear" ? allLinear : adaptableLayers)(config);
  const names = layers.map(({ name }) => name);
  const matched = matchTargets(newAdapterConfig({ rank: 1, alpha: 1, targets: asked }), names);
  const sides = layers
    .filter(({ name }) => matched.has(name))
    .map(({ inputs, outputs }) => Math.min(inputs, outputs));
  return Math.min(...sides);
}

const order: readonly Method[] = ["full", "lora", "qlora"];

function ratesIn(text: string | undefined): number[] | undefined {
  if (text === undefined) return undefined;
  const rates = text.split(",").map(Number);
  if (rates.every((rate) => Number.isFinite(rate) && rate > 0)) return rates;
  throw new UserError(`learning rates ${text}: expected numbers above 0 separated by commas`);
}
