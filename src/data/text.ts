// Rows {"text"}: plain documents. Every token is learnt, whatever --train-on says.

import { isText, type RowFormat, stringAt } from "./row.ts";

export const text: RowFormat = {
  name: "text",
  shape: '{"text"}',
  keys: ["text"],
  needs: ["text"],
  matches: (row) => isText(row.text),
  toExample: (row, where) => ({ kind: "text", text: stringAt(row, "text", where) }),
};
