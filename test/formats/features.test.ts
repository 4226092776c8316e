// docs/FEATURES.md says of every field of PEFT's LoraConfig what formats/peft-config.ts does with it.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { knownPeftKeys } from "../../src/formats/peft-config.ts";

const text = readFileSync(fileURLToPath(new URL("../../docs/FEATURES.md", import.meta.url)), "utf8");
const rows = [...text.matchAll(/^\| `(\w+)` \| (supported|read|kept apart|refused) \| (.+) \|$/gm)].map(
  ([, field, state]) => [field!, state!] as const,
);
const of = (...states: string[]) =>
  rows.flatMap(([field, state]) => (states.includes(state) ? [field] : [])).sort();

it("names every key once, as it is treated", () => {
  expect(of("refused")).toEqual([...knownPeftKeys.refused].sort());
  const read = new Set<string>(knownPeftKeys.read);
  const ignored = new Set<string>(knownPeftKeys.ignored);
  // What a folder is, is told apart from its keys.
  ignored.delete("peft_type");
  read.add("peft_type");
  expect(of("supported", "read")).toEqual([...read].sort());
  expect(of("kept apart")).toEqual([...ignored].sort());
  expect(new Set(rows.map(([field]) => field)).size).toBe(rows.length);
});
