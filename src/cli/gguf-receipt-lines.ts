// A GGUF file's receipt as lines for people. The receipt itself is publish/gguf-receipt.ts.

import { type GgufReceipt, receiptProblems } from "../publish/gguf-receipt.ts";
import type { Comparison } from "../publish/merge-receipt.ts";

export function receiptLines(receipt: GgufReceipt): string[] {
  const { source, llamaCpp, firstDifference, chatTemplate, sameTokens, tokens, perplexity } = receipt;
  const far = (comparison: Comparison) =>
    `${comparison.meanKl.toPrecision(3)} nats in the mean, ${comparison.maxKl.toPrecision(3)} at most; same next token ${(100 * comparison.sameTopToken).toFixed(1)}%`;
  const first =
    firstDifference === undefined || firstDifference < 0
      ? ""
      : `, other for the first time after token ${firstDifference + 1}`;
  return [
    `read back: perplexity ${perplexity.toPrecision(5)} on ${tokens} tokens of sample text${source ? `, ${source.perplexityReference.toPrecision(5)} of what it was made of` : ""}`,
    ...(source ? [`  from what it was made of: ${far(source)}${first}`] : []),
    ...("absent" in llamaCpp ? [`  llama.cpp was not asked: ${llamaCpp.absent}`] : []),
    ...("passed" in llamaCpp
      ? [`  llama.cpp from our reading: ${far(llamaCpp)}${sameTokens ? "; same tokens" : ""}`]
      : []),
    ...(chatTemplate === "not compared" || chatTemplate === "none"
      ? []
      : [`  chat template: ${chatTemplate}`]),
    ...receiptProblems(receipt).map((problem) => `  not as it should be: ${problem}`),
  ];
}
