// The learning rate of a method: a small search by factors of 3 from a start, that goes on in the direction in which the
// validation loss falls, or a grid that the user gave. Chosen on rows held back from training, never on the evaluation
// rows. Knows nothing of training: it is given a function that runs one.

export interface Tried<Run> {
  readonly learningRate: number;
  /** Infinity when the run diverged. */
  readonly loss: number;
  readonly run: Run | undefined;
}

export interface Searched<Run> {
  readonly best: Tried<Run> | undefined;
  readonly tried: readonly Tried<Run>[];
  /** The best rate is the smallest or largest tried, so a better one may lie beyond. */
  readonly atEdge: boolean;
}

const factor = 3;

/** Undefined from `train` means interrupted: the search ends there. */
export async function searchLearningRate<Run>(
  start: number,
  grid: readonly number[] | undefined,
  mostRuns: number,
  train: (learningRate: number) => Promise<Tried<Run> | undefined>,
): Promise<Searched<Run> | undefined> {
  const tried: Tried<Run>[] = [];
  const attempt = async (learningRate: number): Promise<boolean> => {
    const result = await train(learningRate);
    if (result) tried.push(result);
    return result !== undefined;
  };
  for (const rate of grid ?? [start, start * factor].slice(0, mostRuns))
    if (!(await attempt(rate))) return undefined;
  while (!grid && tried.length < mostRuns) {
    const next = beyond(tried);
    if (next === undefined) break;
    if (!(await attempt(next))) return undefined;
  }
  const best = bestOf(tried);
  const rates = tried.map(({ learningRate }) => learningRate);
  const atEdge =
    best !== undefined &&
    (best.learningRate === Math.min(...rates) || best.learningRate === Math.max(...rates));
  return { best, tried, atEdge };
}

function bestOf<Run>(tried: readonly Tried<Run>[]): Tried<Run> | undefined {
  return tried.reduce<Tried<Run> | undefined>(
    (best, one) => (Number.isFinite(one.loss) && (best === undefined || one.loss < best.loss) ? one : best),
    undefined,
  );
}

/** The neighbour of the best rate that was not tried; undefined when both were. */
function beyond<Run>(tried: readonly Tried<Run>[]): number | undefined {
  const rates = tried.map(({ learningRate }) => learningRate);
  const best = bestOf(tried);
  if (best === undefined) return Math.min(...rates) / factor;
  if (best.learningRate === Math.max(...rates)) return best.learningRate * factor;
  if (best.learningRate === Math.min(...rates)) return best.learningRate / factor;
  return undefined;
}
