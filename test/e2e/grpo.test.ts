// GRPO by the real command: rewards rise, a killed run goes on to the same bytes, whatever is wrong with a reward ends the run
// with one sentence, and the library takes functions. That losses are TRL's: test/objectives/grpo-golden.test.ts.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type * as Library from "../../src/index.ts";
import {
  backendName,
  expectRefusal,
  lowrank,
  resultOf,
  scratchFolder,
  startLowrank,
  succeed,
  summaryIn,
  until,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const { train } = (await import(new URL("../../dist/index.js", import.meta.url).href)) as typeof Library;

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const rows = Array.from({ length: 12 }, (_, i) => ({
  prompt: `${"abcdefgh".slice(0, 1 + (i % 8))}:`,
  id: i,
}));
const data = writeRows(join(folder, "rows.jsonl"), rows);

function reward(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}
/** Share of the letters that a person would read: random models write few. */
const readable = reward(
  "readable.mjs",
  "export default (prompt, completion) => [...completion].filter((c) => c >= ' ' && c <= '~').length / Math.max(1, [...completion].length);",
);
const short = reward("short.mjs", "export default async (prompt, completion) => -completion.length / 100;");

const trainArgs = (out: string, ...more: readonly string[]) => [
  ...["train", "--model", model, "--data", data, "--out", join(folder, out), "--backend", backendName],
  ...["--objective", "grpo", "--reward", readable, "--max-new-tokens", "12", "--sequence-length", "64"],
  ...[
    "--batch-size",
    "3",
    "--group-size",
    "6",
    "--learning-rate",
    "5e-2",
    "--no-timing",
    "--precision",
    "fp32",
  ],
  ...more,
];

interface Line {
  readonly step: number;
  readonly reward?: number;
  readonly [metric: string]: unknown;
}
const linesOf = (out: string): Line[] =>
  readFileSync(join(folder, out, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);

describe("GRPO", () => {
  it("raises the reward, and says so on screen and in metrics.jsonl", () => {
    const { stdout, stderr } = succeed(
      ...trainArgs(
        "rises",
        "--max-steps",
        "25",
        "--schedule",
        "constant",
        "--reward",
        `${short}=0.1`,
        "--json",
      ),
    );
    expect(summaryIn(stdout)).toMatchObject({ status: "done", steps: 25 });
    const lines = linesOf("rises");
    const mean = (part: Line[]) => part.reduce((sum, { reward: own }) => sum + own!, 0) / part.length;
    expect(mean(lines.slice(-5))).toBeGreaterThan(mean(lines.slice(0, 5)) + 0.3);
    const [first] = lines as [Line];
    for (const metric of ["rewardStd", "sameRewardShare", "completionLength", "cutShare", "clipRatio"])
      expect(first[metric], metric).toBeTypeOf("number");
    const weighted = (first["reward.readable.mean"] as number) + 0.1 * (first["reward.short.mean"] as number);
    expect(first.reward).toBeCloseTo(weighted, 6);
    expect(first["reward.readable.std"]).toBeGreaterThan(0);
    expect(stderr).toMatch(/step 1: rows\.jsonl line \d+, "[a-h]+:"\n {2}reward [\d.e-]+: "/);
    expect(stderr).toMatch(/reward 0\.\d+ {2}length \d+/);
  });

  it.each([
    ["steps of their own", ["--max-steps", "6"]],
    [
      "several steps a round, a reference, dropout",
      [
        "--max-steps",
        "7",
        "--iterations",
        "3",
        "--beta",
        "0.1",
        "--dropout",
        "0.1",
        "--gradient-accumulation",
        "2",
      ],
    ],
    ["4-bit weights", ["--max-steps", "5", "--method", "qlora", "--iterations", "2"]],
  ])("that was killed goes on to the same bytes: %s", async (name, more) => {
    succeed(...trainArgs(`${name} whole`, ...more));
    const args = trainArgs(`${name} killed`, ...more, "--save-every", "1");
    const saved = (step: number) => existsSync(join(folder, `${name} killed`, "checkpoints", `step-${step}`));
    const { child, finished } = startLowrank(args);
    await until(() => saved(2), finished);
    child.kill("SIGKILL");
    await finished;
    succeed(...args, "--resume");
    expect(resultOf(join(folder, `${name} killed`))).toEqual(resultOf(join(folder, `${name} whole`)));
  });

  it("does not depend on how many threads work", () => {
    const of = (threads: string) => {
      succeed(...trainArgs(`threads ${threads}`, "--max-steps", "3", "--threads", threads));
      return resultOf(join(folder, `threads ${threads}`));
    };
    expect(of("1")).toEqual(of("2"));
  });

  it("trains all weights, and goes on only with the same rewards", () => {
    const args = trainArgs("full", "--method", "full", "--max-steps", "2", "--learning-rate", "1e-3");
    succeed(...args);
    expect(linesOf("full")).toHaveLength(2);
    const other = reward("other.mjs", "export default () => 1;");
    const changed = args.map((arg) => (arg === readable ? other : arg));
    expectRefusal(lowrank(...changed, "--resume"), 1, [/belongs to another run: reward was/]);
    expectRefusal(lowrank(...args, "--beta", "0.1"), 2, [/--beta.*the adapter off/]);
  });

  it("takes prompts as rows have them", () => {
    const mixed = writeRows(join(folder, "mixed.jsonl"), [
      { prompt: "a:", completion: "not looked at" },
      { prompt: "b:" },
      { instruction: "c", output: "d" },
      { question: "e", answer: "f" },
      { prompt: "g", chosen: "h", rejected: "i" },
    ]);
    const seen = reward(
      "seen.mjs",
      "export default (prompt, completion, row) => (typeof prompt === 'string' && Object.keys(row).length > 0 ? 1 : NaN);",
    );
    const args = trainArgs("mixed", "--max-steps", "2").map((arg) =>
      arg === data ? mixed : arg === readable ? seen : arg,
    );
    succeed(...args);
    expect(linesOf("mixed")[0]).toMatchObject({ reward: 1, sameRewardShare: 1, gradNorm: 0 });
  });
});

describe("what GRPO refuses", () => {
  const without = (...flags: readonly string[]) => {
    const args = trainArgs("refused", "--max-steps", "2");
    return flags.reduce((left, flag) => {
      const at = left.indexOf(flag);
      return [...left.slice(0, at), ...left.slice(at + 2)];
    }, args);
  };

  it("is wrong usage", () => {
    for (const [more, said] of [
      [["--packing"], /--packing does not go/],
      [["--batch-tokens", "100"], /--batch-tokens/],
      [["--eval-fraction", "0.1"], /--eval-fraction do not go/],
      [["--train-on", "all"], /--train-on/],
      [["--gamma", "1"], /--gamma is not grpo's/],
      [["--loss-type", "sigmoid"], /sigmoid is not grpo's; expected dapo/],
      [["--clip-epsilon", "1"], /clip-epsilon/],
      [["--reward", "f.js=much"], /--reward f\.js=much: expected/],
    ] as const)
      expectRefusal(lowrank(...trainArgs("refused", ...more)), 2, [said]);
    expectRefusal(lowrank(...without("--reward")), 2, [/needs --reward F\.js/]);
    expectRefusal(lowrank(...without("--objective")), 2, [/goes with --objective grpo/]);
  });

  it("are rewards that fail, by row, and prompts without room", () => {
    let runs = 0;
    const failing = (text: string, ...more: readonly string[]) => {
      const path = reward("failing.mjs", text);
      const args = trainArgs(`failing ${runs++}`, "--max-steps", "2", ...more);
      return lowrank(...args.map((arg) => (arg === readable ? path : arg)));
    };
    expectRefusal(failing("export default () => NaN;"), 1, [
      /reward failing: rows\.jsonl line \d+, completion .*NaN/,
    ]);
    expectRefusal(failing("export default () => { throw new Error('x'); };"), 1, [
      /line \d+.*threw Error: x/,
    ]);
    expectRefusal(failing("export const rewards = () => [1];"), 1, [/expected 18 rewards.*got 1/]);
    expectRefusal(failing("export default () => { for (;;); };", "--reward-timeout", "1"), 1, [
      /no answer for 1 s, waiting for rows\.jsonl line \d+/,
    ]);
    // One that fails later may be a server that was away: what was learnt by then is not lost.
    const counted = join(folder, "calls.txt");
    const away = `import { appendFileSync, readFileSync } from "node:fs"; export default () => { appendFileSync(${JSON.stringify(counted)}, "x"); if (readFileSync(${JSON.stringify(counted)}, "utf8").length === 40) throw new Error("away"); return Math.random(); };`;
    const args = trainArgs("away", "--max-steps", "3").map((arg) =>
      arg === readable ? reward("away.mjs", away) : arg,
    );
    expectRefusal(lowrank(...args), 1, [
      /threw Error: away.*The 2 steps before are saved in .*step-2;.*--resume/,
    ]);
    succeed(...args, "--resume");
    const roomless = trainArgs("roomless").map((arg) => (arg === "64" ? "20" : arg));
    expectRefusal(lowrank(...roomless), 1, [
      /prompts leave no room.*--max-new-tokens 12.*--over-length drop/,
    ]);
    succeed(...roomless, "--over-length", "drop", "--max-steps", "1");
  });

  it("is a plan of tokens and a sweep of rates", () => {
    expectRefusal(
      lowrank("plan", "--model", model, "--data", data, "--objective", "grpo", "--sequence-length", "64"),
      1,
      [/what the model writes/],
    );
  });
});

describe("check", () => {
  it("counts the memory of what may be written", () => {
    const args = trainArgs("checked").filter((arg, i, all) => arg !== "--out" && all[i - 1] !== "--out");
    const report = (more: readonly string[]) =>
      JSON.parse(succeed("check", ...args.slice(1), ...more, "--json").stdout) as {
        rows: number;
        refused: unknown[];
        memory: { neededBytes: number };
      };
    const small = report([]);
    expect(small).toMatchObject({ rows: 12, refused: [] });
    expect(report(["--max-new-tokens", "40"]).memory.neededBytes).toBeGreaterThan(small.memory.neededBytes);
  });
});

describe("the library", () => {
  it("takes functions as rewards", async () => {
    const judged: unknown[] = [];
    const run = train({
      ...{ model, data: rows, out: join(folder, "library"), backend: backendName as "cpu", maxSteps: 2 },
      ...{ objective: "grpo", maxNewTokens: 8, sequenceLength: 64, batchSize: 2, groupSize: 4 },
      reward: [
        (prompt, completion, row) => {
          judged.push([prompt, row]);
          return completion.length;
        },
        { reward: async () => 0.5, weight: 2, name: "half" },
      ],
    });
    const groups: unknown[] = [];
    for await (const event of run) if (event.type === "rollout") groups.push(event.completions.length);
    expect(groups).toEqual([4, 4]);
    expect(judged).toHaveLength(16);
    expect(rows).toContainEqual((judged[0] as unknown[])[1]);
    expect(linesOf("library")[0]).toMatchObject({ "reward.half.mean": 0.5 });
  });

  it("tells of a function that throws", async () => {
    const run = train({
      ...{ model, data: rows, out: join(folder, "throws"), backend: backendName as "cpu", maxSteps: 2 },
      ...{ objective: "grpo", maxNewTokens: 8, sequenceLength: 64, batchSize: 2, groupSize: 4 },
      reward: () => {
        throw new Error("mine");
      },
    });
    await expect(run.finished).rejects.toThrow(/row.*threw Error: mine/);
  });
});
