// What each source of a run's data gives to an epoch, as `lowrank check` tells it. What an epoch draws is mix.ts's.

/** Where training samples come from: those of one source lie together. */
export interface MixedSource {
  readonly data: string;
  readonly rows: number;
  readonly first: number;
  readonly count: number;
  readonly weight?: number;
  /** Where sources are weighted; else `count`. */
  readonly samplesPerEpoch?: number;
}

/** What a source of data gives. */
export interface MixReport {
  readonly data: string;
  readonly rows: number;
  readonly samples: number;
  readonly tokens: number;
  readonly targetTokens: number;
  readonly weight?: number;
  readonly samplesPerEpoch: number;
  /** Parts of an epoch's samples, and about of its tokens and targets. */
  readonly share: number;
  readonly tokenShare: number;
  readonly targetShare: number;
  /** How often an epoch has each of its samples, in the mean. */
  readonly passes: number;
}

/** Tokens of a source's samples, and those of them that are targets. */
export interface SourceTokens {
  tokens: number;
  targets: number;
}

export function mixOf(
  sources: readonly MixedSource[],
  parts: readonly Readonly<SourceTokens>[],
): MixReport[] {
  const drawn = sources.map(({ count, samplesPerEpoch = count }) => samplesPerEpoch);
  const passes = sources.map(({ count }, i) => (count > 0 ? drawn[i]! / count : 0));
  const samples = drawn.reduce((a, b) => a + b, 0);
  const tokens = parts.reduce((sum, part, i) => sum + part.tokens * passes[i]!, 0);
  const targets = parts.reduce((sum, part, i) => sum + part.targets * passes[i]!, 0);
  const share = (part: number, of: number) => (of > 0 ? Math.round((part / of) * 1e6) / 1e6 : 0);
  return sources.map(({ data, rows, count, weight }, i) => ({
    ...{ data, rows, samples: count, tokens: parts[i]!.tokens, targetTokens: parts[i]!.targets },
    ...(weight !== undefined && { weight }),
    samplesPerEpoch: drawn[i]!,
    share: share(drawn[i]!, samples),
    tokenShare: share(parts[i]!.tokens * passes[i]!, tokens),
    targetShare: share(parts[i]!.targets * passes[i]!, targets),
    passes: Math.round(passes[i]! * 1e6) / 1e6,
  }));
}
