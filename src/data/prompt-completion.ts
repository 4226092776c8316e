// Rows {"prompt", "completion"}: the two are joined as they are, with nothing in between. For evaluation a row may
// list several acceptable answers, {"prompt", "references"}, with or without a completion.

import { UserError } from "../util/errors.ts";
import { kindOf, type RowFormat, stringAt } from "./row.ts";

export const promptCompletion: RowFormat = {
  name: "prompt-completion",
  shape: '{"prompt", "completion"}',
  keys: ["prompt", "completion", "references"],
  matches: (row) => "prompt" in row && ("completion" in row || "references" in row),
  toExample(row, where) {
    const prompt = stringAt(row, "prompt", where);
    const listed = row.references ?? undefined;
    if (listed === undefined) {
      return { kind: "completion", prompt, completion: stringAt(row, "completion", where) };
    }
    if (!Array.isArray(listed) || listed.length === 0) {
      throw new UserError(`${where}: "references" must be an array of strings, found ${kindOf(listed)}.`);
    }
    const references = listed.map((reference: unknown) => {
      if (typeof reference === "string") return reference;
      throw new UserError(`${where}: "references" must hold strings only, found ${kindOf(reference)}.`);
    });
    const completion = "completion" in row ? stringAt(row, "completion", where) : references[0]!;
    return { kind: "completion", prompt, completion, references };
  },
};
