// BLEU, chrF and ROUGE against sacrebleu and rouge_score (goldens: tools/golden/metrics_golden.py), and exact match.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { bleuOf, bleuRow, corpusBleu, tokenize13a } from "../../src/metrics/bleu.ts";
import { chrfOf, chrfRow, corpusChrf } from "../../src/metrics/chrf.ts";
import { exactMatch, isExactMatch } from "../../src/metrics/exact-match.ts";
import { textMetrics } from "../../src/metrics/index.ts";
import { rouge, rougeRow } from "../../src/metrics/rouge.ts";
import { textRows } from "../../src/metrics/text-metric.ts";

interface Golden {
  rows: {
    prediction: string;
    references: string[];
    bleu: [plain: number, effectiveOrder: number];
    chrf: number;
    rouge1: number[];
    rouge2: number[];
    rougeL: number[];
  }[];
  corpora: {
    start: number;
    end: number;
    bleu: number;
    precisions: number[];
    brevityPenalty: number;
    chrf: number;
  }[];
}
const golden: Golden = JSON.parse(
  readFileSync(new URL("../golden/metrics/texts.json", import.meta.url), "utf8"),
);

/** Goldens carry 12 digits; sums of logarithms differ in the last of them. */
const TOLERANCE = 1e-8;

function close(actual: number, expected: number, what: string): void {
  if (!(Math.abs(actual - expected) <= TOLERANCE))
    throw new Error(`${what}: ${actual}, expected ${expected}`);
}

describe("equal to the Python packages", () => {
  test(`sentence scores of ${golden.rows.length} rows`, () => {
    for (const [k, row] of golden.rows.entries()) {
      const where = `row ${k} ${JSON.stringify(row.prediction)}`;
      const statistics = [bleuRow(row.prediction, row.references)];
      close(bleuOf(statistics).score, row.bleu[0], `${where} BLEU`);
      close(bleuOf(statistics, true).score, row.bleu[1], `${where} BLEU with effective order`);
      close(chrfOf([chrfRow(row.prediction, row.references)]), row.chrf, `${where} chrF`);
      const scores = rougeRow(row.prediction, row.references);
      for (const name of ["rouge1", "rouge2", "rougeL"] as const) {
        const { precision, recall, f1 } = scores[name];
        for (const [i, value] of [precision, recall, f1].entries())
          close(value, row[name][i]!, `${where} ${name}`);
      }
    }
  });

  test.each(golden.corpora)("corpus of rows $start to $end", (corpus) => {
    const rows = golden.rows.slice(corpus.start, corpus.end);
    const predictions = rows.map((row) => row.prediction);
    const references = rows.map((row) => row.references);
    const score = corpusBleu(predictions, references);
    close(score.score, corpus.bleu, "BLEU");
    close(score.brevityPenalty, corpus.brevityPenalty, "brevity penalty");
    for (let n = 0; n < 4; n++) close(score.precisions[n]!, corpus.precisions[n]!, `precision ${n + 1}`);
    close(corpusChrf(predictions, references), corpus.chrf, "chrF");
  });

  test("the mean ROUGE of a corpus", () => {
    const rows = golden.rows.map((row) => rougeRow(row.prediction, row.references));
    const expected = golden.rows.reduce((sum, row) => sum + row.rougeL[2]!, 0) / rows.length;
    close(rouge.combine(rows).rougeL!, expected, "ROUGE-L");
  });
});

test("tokens of 13a", () => {
  expect(tokenize13a('He said: "3.14, or 2-3."').join("|")).toBe('He|said|:|"|3.14|,|or|2|-|3|.|"');
  expect(tokenize13a("well-known -2 <skipped>a-\nb &lt;x&gt;").join("|")).toBe("well-known|-2|ab|<|x|>");
  expect(tokenize13a("")).toEqual([]);
});

test("exact match trims the ends and nothing else", () => {
  expect(isExactMatch(" Paris\n", ["London", "Paris"])).toBe(true);
  expect(isExactMatch("paris", ["Paris"])).toBe(false);
  expect(isExactMatch("Paris.", ["Paris"])).toBe(false);
  expect(isExactMatch("New  York", ["New York"])).toBe(false);
  expect(isExactMatch("e\u0301", ["\u00e9"])).toBe(false);
  expect(isExactMatch("", ["\u3000"])).toBe(true);
  expect(exactMatch.combine([1, 0, 1, 1])).toEqual({ exactMatch: 0.75 });
});

describe("through the registry", () => {
  test.each(Object.values(textMetrics))("$name: a perfect and an empty corpus", (metric) => {
    const texts = ['{"boat": [1, 2]}', "[3, 4, 5, 6]"];
    const scores = metric.combine(
      textRows(
        metric,
        texts,
        texts.map((text) => [text]),
      ),
    );
    for (const score of Object.values(scores)) expect([1, 100]).toContain(Math.round(score * 1e9) / 1e9);
    for (const score of Object.values(metric.combine([]))) expect(score).toBe(0);
  });

  test("rows and references must match", () => {
    expect(() => textRows(exactMatch, ["a"], [])).toThrow("1 predictions but 0 rows of references");
    expect(() => textRows(exactMatch, ["a", "b"], [["a"], []])).toThrow("row 2 has no reference");
  });
});
