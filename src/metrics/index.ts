// The registry of metrics over predicted texts. Perplexity is not among them: it comes from losses (perplexity.ts).

import { bleu } from "./bleu.ts";
import { chrf } from "./chrf.ts";
import { exactMatch } from "./exact-match.ts";
import { jsonValidity } from "./json-validity.ts";
import { rouge } from "./rouge.ts";
import type { TextMetric } from "./text-metric.ts";

const registered = {
  "exact-match": exactMatch,
  rouge,
  bleu,
  chrf,
  "json-validity": jsonValidity,
} satisfies Record<string, TextMetric<unknown>>;

export type TextMetricName = keyof typeof registered;

/** By name; what a row holds is each metric's own affair. */
export const textMetrics: Readonly<Record<TextMetricName, TextMetric<unknown>>> = registered;
