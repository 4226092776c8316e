// Text while it is generated: stop texts never come out, not even in part, and what merely begins like one does.

import { describe, expect, it } from "vitest";
import { openReference } from "../../src/backend/reference.ts";
import { continueText, StopGate } from "../../src/generate/continue-text.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { openGolden } from "../conformance/model-case.ts";
import { loadModelGolden } from "../golden/load-golden.ts";
import { byteTokenizer } from "../text/byte-tokenizer.ts";

function passed(stops: string[], pieces: string[]) {
  const out: string[] = [];
  const gate = new StopGate(stops, (piece) => out.push(piece));
  const open = pieces.map((piece) => gate.push(piece));
  gate.end();
  expect(out.join("")).toBe(gate.text);
  return { out, open: open.at(-1), text: gate.text };
}

describe("a stop text", () => {
  it("cuts where it begins, even across pieces", () => {
    expect(passed(["\n\n"], ["one\n", "\ntwo"])).toMatchObject({ text: "one", open: false });
    expect(passed(["END"], ["aE", "N", "D", "b"])).toMatchObject({ text: "a", open: false });
  });

  it("holds back only what may become one", () => {
    expect(passed(["END"], ["aE", "Nb", "E"]).out).toEqual(["a", "ENb", "E"]);
    expect(passed(["aab"], ["aaab"])).toMatchObject({ text: "a", open: false });
  });

  it("is the first of several", () => {
    expect(passed(["yz", "bc"], ["abcyz"])).toMatchObject({ text: "a" });
    expect(passed([], ["a", "", "b"])).toEqual({ out: ["a", "b"], open: true, text: "ab" });
  });
});

it("streams the same text that it returns, and stops at a stop text or when told to", async () => {
  const loaded = await openGolden(openReference(), loadModelGolden("llama-gqa-tied-llama3"));
  const tokenizer = byteTokenizer();
  const promptIds = [0, 60, 70, 80];
  const pieces: string[] = [];
  const options = { maxNewTokens: 24, sampling: greedy };
  const whole = await continueText(loaded.decoder, tokenizer, promptIds, {
    ...options,
    onText: (piece) => pieces.push(piece),
  });
  expect(pieces.join("")).toBe(whole.text);
  expect(whole).toMatchObject({ finishReason: "length" });
  expect(whole.tokenIds).toHaveLength(24);
  expect(tokenizer.decode(whole.tokenIds)).toBe(whole.text);

  const stop = whole.text.slice(5, 7);
  const cut = await continueText(loaded.decoder, tokenizer, promptIds, { ...options, stop: [stop] });
  expect(cut.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
  expect(cut.finishReason).toBe("stop");
  expect(cut.tokenIds.length).toBeLessThan(24);

  const aborted = await continueText(loaded.decoder, tokenizer, promptIds, {
    ...options,
    signal: { aborted: true },
  });
  expect(aborted.tokenIds).toEqual([]);
});
