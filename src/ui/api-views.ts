// What the page looks at on demand, beside a run's numbers: rows with each token's loss, samples, layers, memory, and
// comparisons. Types only, a part of api.ts, where the routes are.

/** Bytes by category: weights, scales, adapters, gradients, optimizer, activations, logits, workspace. */
export type MemoryByCategory = Readonly<Record<string, number>>;

/** Up to 20 rows with their tokens. `set` is "train" or "eval". */
export interface RowsView {
  readonly set: "train" | "eval";
  readonly from: number;
  /** Rows of the set. */
  readonly total: number;
  /** Rows that are shown here; of a pair, each completion is an entry of `rows`. */
  readonly count: number;
  /** The step whose weights are "after": a checkpoint's, or the result's. Absent where the run has saved nothing. */
  readonly step?: number;
  readonly rows: readonly RowView[];
}

export interface RowView {
  /** "rows.jsonl line 11". */
  readonly label: string;
  /** What of the row this is, where it is a pair, or rated. */
  readonly part?: "chosen" | "rejected" | "wanted" | "unwanted";
  /** The row has more tokens than are shown. */
  readonly cut: boolean;
  readonly tokens: readonly TokenView[];
}

export interface TokenView {
  readonly id: number;
  readonly text: string;
  /** Whether the loss counts it. */
  readonly target: boolean;
  /** Loss in nats under the base, and under the base with what was trained; absent for a text's first token. */
  readonly before?: number;
  readonly after?: number;
}

export interface SamplesRequest {
  /** Up to 8; rows' own prompts (those for evaluation first) when absent. */
  readonly prompts?: readonly string[];
  /** At most 256; 48 when absent. */
  readonly maxNewTokens?: number;
}

export interface SamplesView {
  readonly step?: number;
  readonly samples: readonly {
    readonly prompt: string;
    readonly base: string;
    /** Absent where the run has saved nothing. */
    readonly tuned?: string;
    /** What the row has. */
    readonly expected?: string;
  }[];
}

export interface LayersView {
  /** The step whose weights are looked at; "result" is the run's end. */
  readonly step: number | "result";
  readonly modules: readonly {
    /** "model.layers.0.self_attn.q_proj". */
    readonly name: string;
    readonly layer?: number;
    /** "q_proj". */
    readonly target: string;
    readonly shape: readonly [number, number];
    /** Frobenius norm of the update, and over that of the base's weight. */
    readonly norm: number;
    readonly relativeSize?: number;
    /** Descending, at most 64. */
    readonly singularValues: readonly number[];
    /** Ranks that hold 90, 95 and 99% of the energy; null where more are needed than were computed. */
    readonly rank90: number | null;
    readonly rank95: number | null;
    readonly rank99: number | null;
    readonly effectiveRank: number;
  }[];
  /** Modules without any change. */
  readonly unchanged: readonly string[];
}

export interface MemoryView {
  /** What was planned for a step's peak; absent where the run's model or data cannot be found any more. */
  readonly planned?: { readonly peakBytes: number; readonly atPeak: MemoryByCategory };
  /** As run.json has it; of a run that is going on, of its beginning. */
  readonly measured?: {
    readonly peakBytes: number;
    readonly atPeak: MemoryByCategory;
    readonly live: MemoryByCategory;
    readonly peakRssBytes?: number;
    readonly deviceBytes?: number;
    /** Measured when the run began, before its first step: it says nothing of a step's peak. */
    readonly early?: true;
  };
  /** Of the process now, where it is running on this machine. */
  readonly rssBytes?: number;
  readonly notes: readonly string[];
}

export interface CompareSummary {
  readonly id: string;
  readonly status: string;
  readonly model: string;
  readonly data: string;
  readonly rows: number;
  readonly changedMs: number;
}

export interface CompareView {
  readonly summary: CompareSummary;
  /** The table of compare.md: its heading and its cells. */
  readonly heading: readonly string[];
  readonly cells: readonly (readonly string[])[];
  /** The sentences below it. */
  readonly notes: readonly string[];
  /** The score that stands for quality. */
  readonly quality: string;
  readonly rows: readonly {
    readonly name: string;
    readonly method: string;
    readonly rank: number;
    readonly learningRate?: number;
    readonly trainableParameters: number;
    readonly peakBytes?: number;
    readonly tokensPerSecond?: number;
    readonly seconds?: number;
    readonly scores: Readonly<Record<string, number>>;
    readonly standardErrors: Readonly<Record<string, number>>;
    readonly intervals: Readonly<Record<string, { readonly low: number; readonly high: number }>>;
    /** Learning rates tried, with their validation loss; null: diverged. */
    readonly tried: readonly { readonly learningRate: number; readonly validationLoss: number | null }[];
    /** [step, training loss]. */
    readonly course: readonly (readonly [number, number])[];
    /** The run's id, where its folder is shown too. */
    readonly run?: string;
  }[];
}
