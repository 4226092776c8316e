// The quickstart on this machine's card, as one JSON line: seconds of training, exact match before and after. Arguments go to it.

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const script = fileURLToPath(new URL("../../examples/quickstart/run.mjs", import.meta.url));
const begin = performance.now();
const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...process.argv.slice(2)], {
  encoding: "utf8",
});
process.stderr.write(stderr);
const [, before, after] = /held-out stories: (\d+)% before, (\d+)% after/.exec(stdout) ?? [];
const [, training] =
  /Trained .* in ([\d.]+) s|([\d.]+) s of training/.exec(stdout)?.filter((part) => part !== undefined) ?? [];
process.stderr.write(stdout);
console.log(
  JSON.stringify({
    quickstart: status,
    ...{ before: Number(before), after: Number(after), trainingSeconds: Number(training) },
    allSeconds: (performance.now() - begin) / 1000,
  }),
);
process.exitCode = status ?? 1;
