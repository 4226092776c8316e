// Bits in the targets against bits of an adapter: the rule of "LoRA Without Regret", in check's report and findings.

import { describe, expect, it } from "vitest";
import { capacityFindings, capacityOf, capacityText } from "../../src/train/capacity.ts";

describe("capacity", () => {
  it("is two bits a parameter against one a target token of distinct rows", () => {
    const capacity = capacityOf({ samples: 100, duplicates: 25, targetTokens: 8_000_000 }, 2_400_000);
    expect(capacity).toMatchObject({
      targetTokens: 6_000_000,
      targetBits: 6_000_000,
      capacityBits: 4_800_000,
    });
    expect(capacity.share).toBe(1.25);
    expect(capacity.source).toMatch(/LoRA Without Regret .*2025-09-29.*Allen-Zhu/);
    expect(capacityText(capacity)).toBe(
      "the targets hold about 6 Mbit (1 bit a token), 2.4M trained parameters about 4.8 Mbit (2 bits each): 130%",
    );
  });

  it("warns where the targets hold more, and names a rank that would do", () => {
    const small = capacityOf({ samples: 10, duplicates: 0, targetTokens: 8_400_000 }, 2_400_000);
    const [finding] = capacityFindings(small, 8);
    expect(finding).toMatchObject({ code: "capacity", level: "warn" });
    // 8 x 1.75 = 14, and 16 is the next that people use.
    expect(finding!.message).toContain("--rank 16");
    expect(capacityFindings(capacityOf({ samples: 10, duplicates: 0, targetTokens: 100 }, 50), 8)).toEqual(
      [],
    );
  });

  it("is nothing without samples", () => {
    expect(capacityOf({ samples: 0, duplicates: 0, targetTokens: 0 }, 10).share).toBe(0);
  });
});
