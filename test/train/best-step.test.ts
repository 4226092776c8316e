// Which step is the best, and when a run has gone on long enough: transformers' EarlyStoppingCallback, judged over plain
// evaluations.

import { describe, expect, it } from "vitest";
import { resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import { scoreNamed, scoreOptions } from "../../src/metrics/scores.ts";
import { isExhausted, judge, type Watched, type WatchRule } from "../../src/train/best-step.ts";

function course(rule: WatchRule, values: readonly number[], name = rule.score.name) {
  let watched: Watched | undefined;
  for (const [i, value] of values.entries()) {
    const event = { type: "eval", step: 10 * (i + 1), loss: 1, perplexity: 2, [name]: value } as const;
    watched = judge(rule, watched, event);
    if (isExhausted(rule, watched)) return { watched, stopped: event.step };
  }
  return { watched, stopped: undefined };
}

describe("the best step", () => {
  it("is the least loss, the highest match", () => {
    const loss = { score: scoreNamed("loss"), minDelta: 0 };
    expect(course(loss, [3, 2, 2.5, 2, 4]).watched!.best).toMatchObject({ step: 20, value: 2 });
    const match = { score: scoreNamed("exact-match"), minDelta: 0 };
    expect(course(match, [0.1, 0.5, 0.4, 0.5]).watched!.best).toMatchObject({
      metric: "exactMatch",
      step: 20,
    });
  });

  it("is never one that is not a number", () => {
    const rule = { score: scoreNamed("loss"), minDelta: 0 };
    expect(course(rule, [Number.NaN, 5, Number.NaN]).watched!.best).toMatchObject({ step: 20, value: 5 });
    expect(course(rule, [Number.NaN]).watched!.best).toBeUndefined();
  });

  it("needs a score that the evaluations give", () => {
    const rule = { score: scoreNamed("reward-accuracy"), minDelta: 0 };
    expect(() => course(rule, [1], "loss")).toThrow(/--keep-best rewardAccuracy: .* give loss, perplexity/);
  });
});

describe("patience", () => {
  const rule = { score: scoreNamed("loss"), patience: 2, minDelta: 0 };

  it("ends a run after so many evaluations that are no better in a row", () => {
    expect(course(rule, [3, 2, 2.1, 1.9, 2, 2.2, 1]).stopped).toBe(60);
    expect(course(rule, [3, 2, 1, 0.5]).stopped).toBeUndefined();
  });

  it("counts what is better by too little, which may yet be the best step", () => {
    const { stopped, watched } = course({ ...rule, minDelta: 0.1 }, [3, 2.95, 2.9, 1]);
    expect(stopped).toBe(30);
    expect(watched!.best).toMatchObject({ step: 30, value: 2.9 });
  });

  it("ends a run whose loss is no number any more", () => {
    expect(course(rule, [3, Number.NaN, Number.NaN]).stopped).toBe(30);
  });
});

describe("options", () => {
  const optionsOf = (given: object) =>
    resolveOptions(trainDefinition, { model: "m", data: "d", out: "o", ...given });
  const evaluated = { evalFraction: 0.1, evalEvery: 5 };

  it("name scores as reports and as metrics do", () => {
    for (const name of ["loss", "perplexity", "exact-match", "rougeL", "bleu", "chrf", "json-validity"])
      expect(scoreOptions).toContain(name);
    expect(scoreNamed("rouge").name).toBe("rougeL");
    expect(scoreNamed("rouge1")).toEqual({ name: "rouge1", metric: "rouge", falls: false });
    expect(scoreNamed("json-validity").name).toBe("jsonValid");
    expect(scoreNamed("reward-accuracy")).toEqual({ name: "rewardAccuracy", falls: false });
  });

  it("need what they work with", () => {
    expect(() => optionsOf({ keepBest: "loss" })).toThrow(/--keep-best needs rows to evaluate on/);
    expect(() => optionsOf({ keepBest: "loss", evalFraction: 0.1 })).toThrow(/add --eval-every N/);
    expect(() => optionsOf({ patience: 2, evalFraction: 0.1 })).toThrow(/--patience needs evaluations/);
    expect(() => optionsOf({ ...evaluated, minDelta: 0.1 })).toThrow(/--min-delta is of --patience/);
    expect(() => optionsOf({ evalMetrics: "bleu" })).toThrow(/--eval-metrics needs rows/);
    expect(() => optionsOf({ averageCheckpoints: 3 })).toThrow(/add --save-every N/);
    expect(() => optionsOf({ ...evaluated, keepBest: "blue" })).toThrow(/Did you mean bleu/);
    const both = { ...evaluated, keepBest: "loss", averageCheckpoints: 2, saveEvery: 1 };
    expect(() => optionsOf(both)).toThrow(/exclude each other/);
  });

  it("bring what they need with them", () => {
    expect(optionsOf({ ...evaluated, patience: 2 }).keepBest).toBe("loss");
    const matched = optionsOf({ ...evaluated, keepBest: "exact-match", evalMetrics: "bleu" });
    expect(matched.evalMetrics).toEqual(["bleu", "exact-match"]);
  });
});
