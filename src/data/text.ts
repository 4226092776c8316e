// Rows {"text"}: plain documents. Every token is learnt, whatever --train-on says.

import { type RowFormat, stringAt } from "./row.ts";

export const text: RowFormat = {
  name: "text",
  shape: '{"text"}',
  keys: ["text"],
  matches: (row) => "text" in row,
  toExample: (row, where) => ({ kind: "text", text: stringAt(row, "text", where) }),
};
