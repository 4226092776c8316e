// The learning rate of a method: a small search over powers of ten from a start, going on in the direction in which the
// validation loss falls and then refining by a factor of 3; or a grid that the user gave. Chosen on rows held back from
// training, never on the evaluation rows. Knows nothing of training: it is given a function that runs one.

export interface Tried<Run> {
  readonly learningRate: number;
  /** Infinity when the run diverged. */
  readonly loss: number;
  readonly run: Run | undefined;
}

export interface Searched<Run> {
  readonly best: Tried<Run> | undefined;
  readonly tried: readonly Tried<Run>[];
  /** The best of several rates is the smallest or largest of them, so a better one may lie beyond. */
  readonly atEdge: boolean;
}

const coarse = 10;
const fine = 3;

export interface SearchOptions {
  readonly start: number;
  /** Rates of the user's own, tried as they are. */
  readonly grid?: readonly number[];
  readonly mostRuns: number;
  /** The start is believed to be near: no coarse steps. */
  readonly near?: boolean;
}

/** Undefined from `train` means interrupted: the search ends there. */
export async function searchLearningRate<Run>(
  { start, grid, mostRuns, near = false }: SearchOptions,
  train: (learningRate: number) => Promise<Tried<Run> | undefined>,
): Promise<Searched<Run> | undefined> {
  const tried: Tried<Run>[] = [];
  const attempt = async (learningRate: number): Promise<boolean> => {
    const result = await train(Number(learningRate.toPrecision(6)));
    if (result) tried.push(result);
    return result !== undefined;
  };
  for (const rate of grid ?? [start]) if (!(await attempt(rate))) return undefined;
  for (const factor of grid ? [] : near ? [fine] : [coarse, fine]) {
    while (tried.length < mostRuns) {
      const next = beyond(tried, factor);
      if (next === undefined) break;
      if (!(await attempt(next))) return undefined;
    }
  }
  const best = bestOf(tried);
  const rates = tried.map(({ learningRate }) => learningRate);
  const atEdge =
    best !== undefined &&
    rates.length > 1 &&
    (best.learningRate === Math.min(...rates) || best.learningRate === Math.max(...rates));
  return { best, tried, atEdge };
}

function bestOf<Run>(tried: readonly Tried<Run>[]): Tried<Run> | undefined {
  return tried.reduce<Tried<Run> | undefined>(
    (best, one) => (Number.isFinite(one.loss) && (best === undefined || one.loss < best.loss) ? one : best),
    undefined,
  );
}

/** A rate next to the best one, upwards first, that no tried rate is near to; undefined when both sides are known. */
function beyond<Run>(tried: readonly Tried<Run>[], factor: number): number | undefined {
  const best = bestOf(tried);
  const rates = tried.map(({ learningRate }) => learningRate);
  if (best === undefined) return Math.min(...rates) / factor;
  const tolerance = Math.sqrt(factor);
  const isKnown = (rate: number) => rates.some((one) => one / rate < tolerance && rate / one < tolerance);
  return [best.learningRate * factor, best.learningRate / factor].find((rate) => !isKnown(rate));
}
