// Which of its two things `lowrank check` does: a GGUF file is checked wherever it stands among the flags.

import { afterEach, describe, expect, it, vi } from "vitest";
import { command } from "../../src/cli/check.ts";
import { checkGgufDefinition } from "../../src/config/check-gguf-options.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { UsageError } from "../../src/util/errors.ts";

afterEach(() => void vi.restoreAllMocks());

async function helpOf(...words: string[]): Promise<string> {
  let text = "";
  vi.spyOn(process.stdout, "write").mockImplementation((chunk) => {
    text += String(chunk);
    return true;
  });
  await command.main([...words, "--help"]);
  return text;
}

describe("lowrank check", () => {
  it.each([
    ["a.gguf"],
    ["--json", "a.gguf"],
    ["--model", "tiny", "a.GGUF"],
    ["--file", "a.gguf"],
    ["a.gguf", "--model", "b.gguf"],
  ])("reads a file with %s %s %s", async (...words) => {
    expect(await helpOf(...words)).toContain("--bound");
  });

  it.each(
    [[], ["--model", "a.gguf", "--data", "rows.jsonl"], ["config.yaml", "--model", "a.gguf"]].map((w) => [w]),
  )("looks at rows with %j", async (words) => {
    expect(await helpOf(...words)).not.toContain("--bound");
  });

  it("holds a file against an adapter only beside what it was made of", () => {
    const given = (more: object) => resolveOptions(checkGgufDefinition, { file: "a.gguf", ...more });
    expect(() => given({ adapter: "a" })).toThrow(UsageError);
    expect(() => given({ chatTemplate: "a" })).toThrow(/--chat-template needs --model/);
    expect(given({ adapter: "a", model: "m" }).adapter).toBe("a");
  });
});
