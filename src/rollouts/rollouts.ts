// What a step of GRPO learns from: the next prompts, completions that the model writes for them, their rewards, and what
// these make of them, as samples that fork at the prompt's end. A round serves as many steps as it has iterations; a
// checkpoint between two of them holds the round. The loss: objectives/grpo.ts.

import type { PromptRow } from "../data/prompts.node.ts";
import type { Sample } from "../data/render.ts";
import { rowLabel } from "../data/row.ts";
import { deviation, judge, mean, type RewardScale } from "../objectives/advantages.ts";
import type { Objective, Rollout } from "../objectives/objective.ts";
import type { Rewards } from "./rewards.node.ts";
import { type WrittenCompletion, writeCompletions } from "./write-completions.ts";

type Writing = Parameters<typeof writeCompletions>;

export interface RolloutOptions {
  readonly groupSize: number;
  readonly maxNewTokens: number;
  readonly iterations: number;
  readonly scaleRewards: RewardScale;
  readonly seed: number;
}

/** Prompts by micro-batch, as their places in the data. */
type Places = readonly (readonly number[])[];

/** A round between two of its steps; plain data. */
export interface RoundState {
  readonly samples: readonly {
    readonly place: number;
    readonly completions: readonly number[];
    readonly ids: string;
    readonly advantages: readonly number[];
    readonly old: string;
  }[];
  readonly sizes: readonly number[];
}

export interface RolloutStep {
  /** By micro-batch. */
  readonly samples: readonly (readonly Sample[])[];
  /** Of a round that was just written. */
  readonly news?: RolloutNews;
}

export interface RolloutNews {
  readonly metrics: Readonly<Record<string, number>>;
  readonly shown: ShownGroup;
}

/** The completions of one prompt, best first. */
export interface ShownGroup {
  readonly row: string;
  readonly prompt: string;
  readonly completions: readonly { readonly text: string; readonly reward: number | null }[];
}

export class Rollouts {
  private round: { readonly samples: readonly (readonly Sample[])[]; readonly places: Places } | undefined;

  constructor(
    private readonly model: { readonly decoder: Writing[0]; readonly tokenizer: Writing[1] },
    private readonly prompts: readonly PromptRow[],
    private readonly rewards: Rewards,
    private readonly objective: Required<Pick<Objective, "rollouts">>,
    private readonly options: RolloutOptions,
  ) {}

  /** Samples of step `step`, from 1; `take` gives the next prompts where a new round begins. */
  async next(step: number, take: () => Places): Promise<RolloutStep> {
    const { iterations } = this.options;
    const number = Math.floor((step - 1) / iterations);
    if (this.round && (step - 1) % iterations !== 0) return { samples: this.round.samples };
    const places = take();
    const rows = places.flat().map((place) => this.prompts[place]!);
    const written = await this.write(rows, number);
    const items = rows.flatMap(({ id, text: prompt, value: row }, i) =>
      written[i]!.map(({ text: completion }) => ({ id, prompt, completion, row })),
    );
    const table = await this.rewards.judge(items);
    const judged = judge(table, this.rewards.weights, this.options.groupSize, this.options.scaleRewards);
    const { groupSize } = this.options;
    const samples = rows.map((row, i) => {
      const sample = sampleOf(row, written[i]!);
      const advantages = judged.advantages.slice(i * groupSize, (i + 1) * groupSize);
      this.objective.rollouts.set(sample, { advantages });
      return sample;
    });
    const grouped = split(
      samples,
      places.map(({ length }) => length),
    );
    this.round = { samples: grouped, places };
    const metrics = this.metricsOf(written.flat(), table, judged);
    const shown = this.shownOf(rows[0]!, written[0]!, judged.rewards.slice(0, groupSize));
    return { samples: grouped, news: { metrics, shown } };
  }

  /** The round, where steps after `step` go on with it. */
  stateAfter(step: number): RoundState | undefined {
    if (!this.round || step % this.options.iterations === 0) return undefined;
    const { samples, places } = this.round;
    const flat = places.flat();
    return {
      sizes: samples.map(({ length }) => length),
      samples: samples.flat().map((sample, i) => {
        const { advantages, old }: Rollout = this.objective.rollouts.of(sample);
        return {
          ...{ place: flat[i]!, completions: sample.fork!.completions, advantages },
          ids: base64(sample.ids),
          old: base64(old ?? new Float64Array(0)),
        };
      }),
    };
  }

  /** Takes up a round that a checkpoint holds. Its samples, whose reference is to be taken again. */
  resume({ samples, sizes }: RoundState): readonly Sample[] {
    const made = samples.map(({ place, completions, ids, advantages, old }) => {
      const row = this.prompts[place]!;
      const tokens = new Int32Array(bytesOf(ids).buffer);
      const sample = forked(row, tokens, completions);
      this.objective.rollouts.set(sample, { advantages, old: new Float64Array(bytesOf(old).buffer) });
      return sample;
    });
    const places = split(
      samples.map(({ place }) => place),
      sizes,
    );
    this.round = { samples: split(made, sizes), places };
    return made;
  }

  private write(rows: readonly PromptRow[], round: number): Promise<WrittenCompletion[][]> {
    const { decoder, tokenizer } = this.model;
    const prompts = rows.map(({ ids }) => ids);
    return writeCompletions(decoder, tokenizer, prompts, { ...this.options, round });
  }

  private metricsOf(
    written: readonly WrittenCompletion[],
    table: Awaited<ReturnType<Rewards["judge"]>>,
    { rewards, sameGroups }: ReturnType<typeof judge>,
  ): Record<string, number> {
    const lengths = written.map(({ ids }) => ids.length);
    const known = (metrics: Record<string, number>) =>
      Object.fromEntries(Object.entries(metrics).filter(([, value]) => !Number.isNaN(value)));
    const byFunction = this.rewards.names.map((name, i) => {
      const own = table.map((row) => row[i]!);
      return { [`reward.${name}.mean`]: mean(own), [`reward.${name}.std`]: deviation(own) };
    });
    return known({
      reward: mean(rewards),
      rewardStd: deviation(rewards),
      ...Object.assign({}, ...byFunction),
      sameRewardShare: sameGroups / (rewards.length / this.options.groupSize),
      completionLength: mean(lengths),
      completionLengthMin: Math.min(...lengths),
      completionLengthMax: Math.max(...lengths),
      cutShare: mean(written.map(({ cut }) => Number(cut))),
    });
  }

  private shownOf(
    { id, text }: PromptRow,
    written: readonly WrittenCompletion[],
    rewards: readonly (number | null)[],
  ): ShownGroup {
    const completions = written
      .map(({ text: own }, i) => ({ text: own, reward: rewards[i]! }))
      .sort((a, b) => (b.reward ?? Number.NEGATIVE_INFINITY) - (a.reward ?? Number.NEGATIVE_INFINITY));
    return { row: rowLabel(id), prompt: text, completions };
  }
}

function sampleOf(row: PromptRow, written: readonly WrittenCompletion[]): Sample {
  const ids = Int32Array.from([...row.ids, ...written.flatMap((completion) => completion.ids)]);
  return forked(
    row,
    ids,
    written.map((completion) => completion.ids.length),
  );
}

function forked({ id, ids: prompt }: PromptRow, ids: Int32Array, completions: readonly number[]): Sample {
  const targetMask = new Uint8Array(ids.length).fill(1);
  targetMask.fill(0, 0, prompt.length);
  return { ids, targetMask, rowId: id, fork: { prompt: prompt.length, completions } };
}

function split<T>(items: readonly T[], sizes: readonly number[]): T[][] {
  let at = 0;
  return sizes.map((size) => {
    at += size;
    return items.slice(at - size, at);
  });
}

function base64(values: Int32Array | Float64Array): string {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");
}

function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(Buffer.from(text, "base64"));
}
