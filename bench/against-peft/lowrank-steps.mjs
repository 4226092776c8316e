// `lowrank bench`, a step at a time: before each step it prints "ready" and waits for a line on its input, so that
// run.mjs beside this file lets the two sides take turns. Then prints the result as one line of JSON.
//
//   node lowrank-steps.mjs FLAGS        the flags of `lowrank bench`

import { readSync, writeSync } from "node:fs";
import { parseCommandLine } from "../../dist/cli/command-line.js";
import { benchDefinition } from "../../dist/config/bench-options.js";
import { resolveOptions } from "../../dist/config/resolve.js";
import { runBench } from "../../dist/train/bench.js";

const { flags } = parseCommandLine(benchDefinition, process.argv.slice(2));

/** bench tells of itself between its steps, outside what it times: there the process stands still. */
function waitForTurn(message) {
  if (message.startsWith("device")) return;
  writeSync(1, "ready\n");
  const line = Buffer.alloc(1);
  if (readSync(0, line) === 0) process.exit(1);
}

const result = await runBench(resolveOptions(benchDefinition, flags), waitForTurn);
writeSync(1, `${JSON.stringify(result)}\n`);
