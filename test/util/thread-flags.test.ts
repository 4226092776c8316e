// Threads of ours start under every flag of Node that a program may be run with.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { threadFlags } from "../../src/util/thread-flags.node.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-thread-flags-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

it("threads keep the flags of how modules load, and of others none where one keeps a thread from starting", () => {
  expect(threadFlags(["--max-old-space-size=400", "--import", "a.mjs"])).toEqual({});
  expect(
    threadFlags([
      ...[
        "--input-type=module",
        "--max-old-space-size=400",
        "--import",
        "a.mjs",
        "--experimental-strip-types",
      ],
      ...["--conditions=own", "--stack-size=900", "--input-type", "module", "-e", "1"],
    ]),
  ).toEqual({ execArgv: ["--import", "a.mjs", "--experimental-strip-types", "--conditions=own"] });
});

it("train() runs in a program given on the command line", () => {
  const index = new URL("../../dist/index.js", import.meta.url).href;
  const script = `
    import { train } from ${JSON.stringify(index)};
    const data = Array.from({ length: 4 }, (_, i) => ({ prompt: i + ":", completion: " red" }));
    const options = { model: "tiny", data, out: ${JSON.stringify(join(root, "run"))}, maxSteps: 1, backend: "reference" };
    for await (const event of train(options)) if (event.type === "done") console.log("steps", event.summary.steps);
  `;
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ["--input-type=module", "--max-old-space-size=2000", "-e", script],
    { encoding: "utf8", env: { ...process.env, LOWRANK_CACHE: join(root, "cache") } },
  );
  expect(status, stderr).toBe(0);
  expect(stdout).toBe("steps 1\n");
});
