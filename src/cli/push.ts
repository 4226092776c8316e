// `lowrank push`: uploads an adapter and prints where it is. The upload itself is publish/push-adapter.ts.

import { pushDefinition } from "../config/push-options.ts";
import { pushAdapter } from "../publish/push-adapter.ts";
import { defineCommand } from "./command.ts";
import { exitCodes } from "./terminal.ts";

export const command = defineCommand(pushDefinition, async (options, terminal) => {
  const url = await pushAdapter(options);
  if (terminal.json) terminal.document({ repo: options.repo, url });
  else terminal.print(`${options.adapter} is on the hub: ${url}`);
  return exitCodes.done;
});
