// Rows {"messages": [{"role", "content"}], "tools"?, "system"?}: conversations as chat APIs write them. OpenAI's older
// "functions" are tools. How turns are read: conversation.ts.

import { mayHoldTurns, readConversation, withSystem } from "./conversation.ts";
import { asTool, type RowFormat, toolsAt } from "./row.ts";

export const messages: RowFormat = {
  name: "messages",
  shape: '{"messages"}',
  keys: ["messages", "tools", "functions", "system"],
  needs: ["messages"],
  matches: (row) => mayHoldTurns(row.messages),
  toExample(row, where, note) {
    const conversation = readConversation(row, "messages", where, note);
    const tools = toolsAt(row, "tools", where) ?? toolsAt(row, "functions", where)?.map(asTool);
    return { kind: "chat", ...withSystem(conversation, row, where), tools };
  },
};
