// Messages for users stay readable, whatever value of a file they quote.

import { describe, expect, it } from "vitest";
import { UsageError, UserError } from "../../src/util/errors.ts";

describe("a message for users", () => {
  it("is left alone while it can be read", () => {
    const message = `${"a word ".repeat(100)}and its end.`;
    expect(new UserError(message).message).toBe(message);
    const cause = new Error("cause");
    expect(new UsageError("short", { cause })).toMatchObject({ message: "short", cause, name: "UsageError" });
  });

  it("has long values cut, their ends and lengths kept", () => {
    const { message } = new UserError(
      `config.json: "x" should be a number, found "${"ab".repeat(5000)}"; write one.`,
    );
    expect(message.length).toBeLessThan(300);
    expect(message).toMatch(
      /^config\.json: "x" should be a number, found "abab.*abab"; \(10003 characters\) write one\.$/,
    );
  });

  it("is cut in its middle where it is many words", () => {
    const { message } = new UserError(`first ${"word ".repeat(5000)}last`);
    expect(message.length).toBeLessThan(2000);
    expect(message).toMatch(/^first word .* \.\.\. .* word last$/);
  });
});
