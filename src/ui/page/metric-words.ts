// What numbers of metrics.jsonl are called for readers. How they are drawn: curves.tsx.

import type { RunSummary } from "../api.ts";

const words: Readonly<Record<string, string>> = {
  loss: "Training loss",
  learningRate: "Learning rate",
  gradNorm: "Gradient norm",
  tokensPerSecond: "Tokens a second",
  perplexity: "Perplexity",
  exactMatch: "Exact match",
  rouge1: "ROUGE-1",
  rouge2: "ROUGE-2",
  rougeL: "ROUGE-L",
  bleu: "BLEU",
  chrf: "chrF",
  jsonValid: "Valid JSON",
  reward: "Reward",
  rewardStd: "Reward, standard deviation",
  rewardsChosen: "Reward of chosen answers",
  rewardsRejected: "Reward of rejected answers",
  rewardAccuracy: "Pairs told right",
  rewardMargin: "Reward margin",
  kl: "Divergence from the reference",
  completionLength: "Tokens an answer",
  completionLengthMin: "Tokens of the shortest answer",
  completionLengthMax: "Tokens of the longest answer",
  cutShare: "Share of answers cut",
  clipRatio: "Share of ratios clipped",
  sameRewardShare: "Groups that teach nothing",
  chosenLoss: "Loss of chosen answers",
};

/** "eval.NAME" is an evaluation's; "reward.short.mean" is of a reward that its user calls "short". */
export function wordsOf(name: string): string {
  if (name === "eval.loss") return "Evaluation loss";
  if (name.startsWith("eval.")) return `${wordsOf(name.slice("eval.".length))}, evaluation`;
  const [, reward, what] = /^reward\.(.+)\.(mean|std)$/s.exec(name) ?? [];
  if (reward !== undefined) return `Reward "${reward}"${what === "std" ? ", standard deviation" : ""}`;
  return Object.hasOwn(words, name) ? words[name]! : name;
}

/** What runs' losses are counted in: cross-entropies in nats a token, those of other objectives in nothing. */
export function lossUnit(runs: readonly Pick<RunSummary, "objective">[]): string {
  const kinds = new Set(runs.map(({ objective }) => objective ?? "sft"));
  const [only] = kinds;
  if (kinds.size > 1) return "loss";
  return only === undefined || only === "sft" ? "nats a token" : `loss (${only})`;
}
