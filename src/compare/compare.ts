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
import { FOLDER_LOCK, lockPlace } from "../formats/place-lock.ts";
import { meanOf } from "../metrics/text-metric.ts";

import type { TrainEvent } from "../train/events.ts";
import { DivergedError, UserError } from "../util/errors.ts";
import { largestRankOf, methodsOfBase } from "./base-model.ts";
import { searchKeep } from "./keep.ts";
import { type Searched, type SearchOptions, searchLearningRate } from "./learning-rate.ts";
import {
  differenceOf,
  type Estimate,
  estimatesOf,
  gainOf,
  keptOf,
  qualityName,
  scoreNames,
} from "./quality-kept.ts";
import type { ComparedRow, KeepResult, SeedRun, Variant } from "./row.ts";
import { type Quality, scoreOne } from "./score-one.ts";
import {
  type Interruption,
  type RunSpec,
  runName,
  type TrainedRun,
  trainOne,
  variantName,
} from "./train-one.ts";

export interface Comparison {
  readonly status: "done" | "interrupted";
  readonly model: string;
  readonly data: string;
  readonly evalData: string;
  readonly seed: number;
  readonly seeds: readonly number[];
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
  /** What each row's runs came to, by the row's name. */
  private readonly qualities = new Map<string, readonly Quality[]>();
  /** The row that others are shares of. */
  private fullName: string | undefined;
  /** The learning rate that each adapter method settled on for an objective; further rows of it start from there. */
  private readonly settled = new Map<string, number>();
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
    const methods = await methodsOfBase(options, this.hooks.tell);
    await this.addBase();
    this.tellLeftOut();
    for (const variant of variantsOf({ ...options, methods }))
      if (!(await this.addTuned(variant))) return this.result("interrupted");
    if (options.keep === undefined) return this.result("done");
    const keep = await searchKeep(this, options.keep);
    return keep === undefined ? this.result("interrupted") : { ...this.result("done"), keep };
  }

  private tellLeftOut(): void {
    const { adapters, inits } = this.options;
    const all = adapters.flatMap((kind) => inits.map((init) => ({ kind, init })));
    const apart = all.filter(({ kind, init }) => !goTogether(kind, init));
    if (apart.length === 0) return;
    const told = apart.map(({ kind, init }) => `${kind} with ${init}`).join(", ");
    if (apart.length === all.length)
      throw new UserError(`--adapters and --inits leave nothing to compare: ${told} do not go together`);
    this.hooks.tell(`left out, because they do not go together: ${told}`);
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
    const [of] = variantsOf({ ...this.options, methods: [method], ranks: [rank] });
    return this.searchAndAdd(of!, { start: learningRate, grid: [learningRate], mostRuns: 1 });
  }

  rateOf(method: Method, objective = this.options.objectives[0]!): number {
    const settled = (own: Method) => this.settled.get(`${own} ${objective}`);
    return (
      settled(method) ??
      // The base in 4 bits hardly moves the best rate of an adapter.
      (method === "qlora" ? settled("lora") : undefined) ??
      resolveOptions(trainDefinition, { model: "-", data: "-", out: "-", method, objective }).learningRate
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
    this.qualities.set("base", [quality]);
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
      ...this.scored([quality]),
    });
  }

  private async addTuned(variant: Variant): Promise<boolean> {
    const { options } = this;
    const { method, objective } = variant;
    const grid = ratesIn(method === "full" ? options.fullLearningRates : options.learningRates);
    // A further row of the same method starts where the first one settled, and needs fewer runs.
    const near =
      this.settled.has(`${method} ${objective}`) ||
      (method === "qlora" && this.settled.has(`lora ${objective}`));
    const mostRuns = near ? Math.min(3, options.gridRuns) : options.gridRuns;
    const search = { start: this.rateOf(method, objective), grid, mostRuns, near };
    return (await this.searchAndAdd(variant, search)) !== undefined;
  }

  /** Looks for a rate with the first seed, and trains the others at it. */
  private async searchAndAdd(variant: Variant, search: SearchOptions): Promise<ComparedRow | undefined> {
    const [first, ...others] = this.options.seeds;
    const withSeed = (seed: number | undefined) => (others.length > 0 ? { ...variant, seed } : variant);
    const searched = await searchLearningRate(search, (learningRate) =>
      this.train({ ...withSeed(first), learningRate }),
    );
    if (!searched) return undefined;
    const { best } = searched;
    if (!best?.run) throw allDiverged(variant, searched);
    const runs = [best.run];
    for (const seed of others) {
      const result = await this.train({ ...withSeed(seed), learningRate: best.learningRate });
      if (!result) return undefined;
      if (result.run) runs.push(result.run);
      else this.hooks.tell(`  ${variantName(variant)} has no run with seed ${seed}`);
    }
    return await this.addRow(variant, runs, searched);
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
    variant: Variant,
    runs: readonly TrainedRun[],
    { best, tried, atEdge }: Searched<TrainedRun>,
  ): Promise<ComparedRow> {
    const { method, rank, adapter, init, objective } = variant;
    const { options, hooks, collective } = this;
    const key = `${method} ${objective}`;
    if (!this.settled.has(key)) this.settled.set(key, best!.learningRate);
    const qualities: Quality[] = [];
    const seeds: SeedRun[] = [];
    for (const { folder, validationLoss, spec } of runs) {
      const quality = await scoreOne(options, { method, folder }, hooks.tell, collective);
      const { seed = options.seed } = spec;
      qualities.push({ ...quality, seed });
      seeds.push({ seed, folder, validationLoss, scores: this.named(quality.scores) });
    }
    const name = variantName(variant);
    this.qualities.set(name, qualities);
    // The base was measured before there was anything to compare it with.
    if (method === "full" && this.fullName === undefined) this.fullName = name;
    if (name === this.fullName)
      this.rows[0] = { ...this.rows[0]!, ...this.scored(this.qualities.get("base")!) };
    const { price } = options;
    const [first] = runs;
    const seconds = meanOf(runs.map((run) => run.seconds));
    const row: ComparedRow = {
      ...{ name, method, rank, atEdge, learningRate: best!.learningRate, objective },
      ...(method === "full" ? {} : { adapter, init }),
      tried: tried.map(({ learningRate, loss }) => ({
        learningRate,
        validationLoss: Number.isFinite(loss) ? loss : null,
      })),
      trainableParameters: first!.trainableParameters,
      peakBytes: first!.peakBytes,
      tokensPerSecond: meanOf(runs.map((run) => run.tokensPerSecond)),
      seconds,
      ...(price === undefined ? {} : { cost: (price * seconds) / 3600 }),
      folder: first!.folder,
      course: first!.course,
      seeds,
      ...this.scored(qualities),
    };
    this.rows.push(row);
    return row;
  }

  private scored(
    runs: readonly Quality[],
  ): Pick<ComparedRow, "scores" | "standardErrors" | "intervals" | "kept" | "gained"> {
    const { metrics, seed } = this.options;
    const estimates = estimatesOf(runs, metrics, seed);
    const each = <T>(of: (estimate: Estimate) => T) =>
      Object.fromEntries(scoreNames(metrics).map((name) => [name, of(estimates[name]!)]));
    const scores = each(({ value }) => value);
    const full = this.qualities.get(this.fullName ?? "");
    const base = this.qualities.get("base");
    const mean = (runs: readonly Quality[]) => ({
      [this.quality]: meanOf(runs.map((run) => run.scores[this.quality]!)),
    });
    return {
      scores,
      standardErrors: each(({ standardError }) => standardError),
      intervals: each(({ interval }) => interval),
      kept: full && keptOf(runs, full, metrics, this.quality, seed),
      gained: full && base && gainOf(mean(runs), mean(full), mean(base), this.quality),
    };
  }

  private named(scores: Quality["scores"]): Record<string, number> {
    return Object.fromEntries(scoreNames(this.options.metrics).map((name) => [name, scores[name]!]));
  }

  /** The rows, each held against full fine-tuning, or where that is not among them against the first one trained. */
  private comparedAll(): ComparedRow[] {
    const { metrics, seed } = this.options;
    const reference = this.fullName ?? this.rows[1]?.name;
    if (reference === undefined) return this.rows;
    const others = this.qualities.get(reference)!;
    return this.rows.map((row) => {
      if (row.name === reference) return row;
      const own = this.qualities.get(row.name)!;
      return { ...row, difference: differenceOf(own, others, reference, metrics, this.quality, seed) };
    });
  }

  private result(status: Comparison["status"]): Comparison {
    const { model, data, evalData, seed, seeds, metrics } = this.options;
    return {
      ...{ status, model, data, evalData, seed, seeds, metrics },
      quality: this.quality,
      rows: this.comparedAll(),
      runs: this.runs.size,
    };
  }
}

/** What is compared, row by row: full fine-tuning has no rank, kind or beginning of an adapter. */
function variantsOf({
  methods,
  ranks,
  adapters,
  inits,
  objectives,
}: Pick<CompareOptions, "methods" | "ranks" | "adapters" | "inits" | "objectives">): Variant[] {
  const ordered = [...methods].sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const rising = [...ranks].sort((a, b) => a - b);
  return ordered.flatMap((method) =>
    objectives.flatMap((objective): Variant[] =>
      method === "full"
        ? [{ method, objective, rank: 0, adapter: "lora", init: "default" }]
        : adapters.flatMap((adapter) =>
            inits
              .filter((init) => goTogether(adapter, init))
              .flatMap((init) => rising.map((rank) => ({ method, objective, rank, adapter, init }))),
          ),
    ),
  );
}

/** Only factors of plain LoRA begin otherwise than as nothing (models/new-adapter.ts). */
function goTogether(adapter: Variant["adapter"], init: Variant["init"]): boolean {
  return adapter === "lora" || init === "default";
}

function allDiverged(variant: Variant, { tried }: Searched<TrainedRun>): UserError {
  const rates = tried.map((one) => one.learningRate).join(", ");
  const flag = variant.method === "full" ? "--full-learning-rates" : "--learning-rates";
  return new UserError(
    `${variantName(variant)}: every learning rate tried diverged (${rates}); give lower ones with ${flag}`,
  );
}

const order: readonly Method[] = ["full", "lora", "qlora"];

function ratesIn(text: string | undefined): number[] | undefined {
  if (text === undefined) return undefined;
  const rates = text.split(",").map(Number);
  if (rates.every((rate) => Number.isFinite(rate) && rate > 0)) return rates;
  throw new UserError(`learning rates ${text}: expected numbers above 0 separated by commas`);
}
