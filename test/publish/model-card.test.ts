// The model card of an adapter: what run.json says of its result, and nothing that it does not.

import { expect, it } from "vitest";
import { newAdapterConfig } from "../../src/formats/peft.ts";
import { modelCard } from "../../src/publish/model-card.ts";

const config = newAdapterConfig({ rank: 8, alpha: 16, targets: "all-linear", baseModel: "owner/base" });

it("names the step of the weights, and what they have forgotten", () => {
  const card = modelCard("mine", config, {
    best: { metric: "exactMatch", step: 40, value: 0.5, scores: { loss: 1 } },
    forgetting: {
      before: { loss: 1, perplexity: 2.7, prompts: 20, right: 12 },
      after: { step: 40, loss: 2, perplexity: 7.4, prompts: 20, right: 10, lost: 3, gained: 1 },
    },
  });
  expect(card).toContain("| step of these weights, the best | 40 |");
  expect(card).toContain("| its exactMatch | 0.5 |");
  expect(card).toContain("| perplexity on other rows, before training | 2.7 |");
  expect(card).toContain("| of their prompts answered right before | 12 of 20 |");
  expect(card).toContain("| of these wrong after (forgotten) | 3 |");
});

it("names the steps of a mean, and leaves out what was not measured", () => {
  const card = modelCard("mine", config, {
    averagedSteps: [80, 90, 100],
    forgetting: {
      before: { loss: 1, perplexity: 2.7 },
      after: { step: 100, loss: 2, perplexity: 7.4 },
    },
  });
  expect(card).toContain("| mean of the steps | 80, 90, 100 |");
  expect(card).toContain("| perplexity on other rows, after | 7.4 |");
  expect(card).not.toMatch(/undefined|forgotten|the best/);
});
