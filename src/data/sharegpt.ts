// Rows {"conversations": [{"from", "value"}], "system"?, "tools"?}: ShareGPT and LLaMA-Factory. Turns may be written
// {"role", "content"} as well. How they are read: conversation.ts.

import { mayHoldTurns, readConversation, withSystem } from "./conversation.ts";
import { asTool, type RowFormat, toolsAt } from "./row.ts";

export const sharegpt: RowFormat = {
  name: "sharegpt",
  shape: '{"conversations"}',
  keys: ["conversations", "system", "tools"],
  needs: ["conversations"],
  matches: (row) => mayHoldTurns(row.conversations),
  toExample(row, where, note) {
    const conversation = readConversation(row, "conversations", where, note, "turn");
    const tools = toolsAt(row, "tools", where)?.map(asTool);
    return { kind: "chat", ...withSystem(conversation, row, where), tools };
  },
};
