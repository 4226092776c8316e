// What a completion is worth beside the others of its prompt: the weighted sum of its rewards less the group's mean, over the
// group's deviation. As TRL 1.16's GRPOTrainer counts (sum_then_normalize). Rewards come from users' functions
// (rollouts/); what the loss makes of an advantage is grpo.ts.

export const rewardScales = ["group", "batch", "none"] as const;
export type RewardScale = (typeof rewardScales)[number];

/** By completion and function; null: the function has nothing to say of it. */
export type RewardTable = readonly (readonly (number | null)[])[];

export interface Judged {
  /** Weighted sums; null where no function had anything to say. */
  readonly rewards: readonly (number | null)[];
  /** 0 of completions without a reward. */
  readonly advantages: readonly number[];
  /** Groups whose completions all have the same reward, so that nothing is learnt from them. */
  readonly sameGroups: number;
}

/** TRL's: so that a group of equal rewards does not divide by nothing. */
const deviationFloor = 1e-4;
/** torch.isclose to 0. */
const sameWithin = 1e-8;

/** `table` has the completions of each prompt one after the other, `groupSize` of each. */
export function judge(
  table: RewardTable,
  weights: readonly number[],
  groupSize: number,
  scale: RewardScale,
): Judged {
  const rewards = table.map((row) =>
    row.every((reward) => reward === null)
      ? null
      : row.reduce<number>((sum, reward, i) => sum + (reward ?? 0) * weights[i]!, 0),
  );
  const ofBatch = deviation(rewards);
  const advantages: number[] = [];
  let sameGroups = 0;
  for (let start = 0; start < rewards.length; start += groupSize) {
    const group = rewards.slice(start, start + groupSize);
    const middle = mean(group);
    const ofGroup = deviation(group);
    const divisor = scale === "none" ? 1 : (scale === "batch" ? ofBatch : ofGroup) + deviationFloor;
    // A group in which fewer than two were judged has no deviation.
    if (!(ofGroup > sameWithin)) sameGroups++;
    for (const reward of group) {
      const advantage = reward === null ? 0 : (reward - middle) / divisor;
      advantages.push(Number.isNaN(advantage) ? 0 : advantage);
    }
  }
  return { rewards, advantages, sameGroups };
}

export function mean(values: readonly (number | null)[]): number {
  const known = values.filter((value) => value !== null);
  return known.reduce((sum, value) => sum + value, 0) / known.length;
}

/** With Bessel's correction; NaN of fewer than two. */
export function deviation(values: readonly (number | null)[]): number {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return Number.NaN;
  const middle = mean(known);
  return Math.sqrt(known.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (known.length - 1));
}
