// `lowrank train` around a stand-in engine: the thread, its events, errors and interruption; and the real command's
// exit codes. The engine runs on a thread, which Node 20 can start only from the compiled files in dist/.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Point } from "../../src/cli/plot.ts";
import { eventTeller, summaryLines } from "../../src/cli/train.ts";
import { resolveOptions } from "../../src/config/resolve.ts";
import { trainDefinition } from "../../src/config/train-options.ts";
import type { TrainEvent, TrainSummary } from "../../src/train/events.ts";
import type { startTraining as StartTraining } from "../../src/train/worker.ts";
import { summaryIn } from "../e2e/lowrank.ts";
import { screen } from "./screen.ts";

const dist = fileURLToPath(new URL("../../dist/", import.meta.url));
const main = join(dist, "cli/main.js");
if (!existsSync(main)) throw new Error("dist/ is missing: run `npm run build` first, as `npm test` does.");

const folder = mkdtempSync(join(tmpdir(), "lowrank-train-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const out = join(folder, "x y");
const options = resolveOptions(trainDefinition, { model: "tiny", data: "rows.jsonl", out });
const summary: TrainSummary = {
  status: "done",
  out: "runs/x y",
  steps: 3,
  firstLoss: 3,
  finalLoss: 2,
  trainableParameters: 10,
  totalParameters: 100,
  tokens: 30,
  tokensPerSecond: 10,
  elapsedMs: 3000,
  device: "cpu",
  peakBytes: 2e9,
  peakRssBytes: 3e9,
};

function engine(name: string, body: string): string {
  const path = join(folder, `${name}.mjs`);
  const errors = JSON.stringify(pathToFileURL(join(dist, "util/errors.js")).href);
  writeFileSync(
    path,
    `import { UserError, BugError } from ${errors};\nexport async function runTraining(options, emit, signal) {\n${body}\n}\n`,
  );
  return pathToFileURL(path).href;
}

describe("the training thread", () => {
  let startTraining: typeof StartTraining;
  beforeAll(async () => {
    ({ startTraining } = await import(pathToFileURL(join(dist, "train/worker.js")).href));
  });

  it("brings events in order, then the summary", async () => {
    const url = engine(
      "events",
      `for (let step = 1; step <= 3; step++) emit({ type: "eval", step, loss: options.rank, perplexity: 1 });
       return ${JSON.stringify(summary)};`,
    );
    const events: TrainEvent[] = [];
    const run = startTraining(options, (event) => events.push(event), url);
    expect(await run.finished).toEqual(summary);
    expect(events.map((event) => event.type === "eval" && [event.step, event.loss])).toEqual([
      [1, 8],
      [2, 8],
      [3, 8],
    ]);
  });

  it.each(["UserError", "BugError"])("brings a %s back as what it was", async (name) => {
    const url = engine(name, `throw new ${name}("rows.jsonl line 3: odd");`);
    const error = await startTraining(options, () => {}, url).finished.catch((caught: Error) => caught);
    expect(error).toMatchObject({ name, message: "rows.jsonl line 3: odd" });
    const { describeError } = await import(pathToFileURL(join(dist, "cli/terminal.js")).href);
    expect(describeError(error).code).toBe(name === "UserError" ? 1 : 3);
  });

  it("is interrupted even while it reads no messages", async () => {
    const url = engine(
      "interrupt",
      `emit({ type: "info", message: "started" });
       while (!signal.interrupted);
       return { ...${JSON.stringify(summary)}, status: "interrupted" };`,
    );
    const run = startTraining(options, () => run.interrupt(), url);
    expect((await run.finished).status).toBe("interrupted");
  });

  it("ends although a handle would keep it alive, and rejects when killed", async () => {
    const open = engine("open", `setInterval(() => {}, 1000); return ${JSON.stringify(summary)};`);
    expect((await startTraining(options, () => {}, open).finished).steps).toBe(3);
    const endless = engine("endless", "await new Promise(() => setInterval(() => {}, 1000));");
    const run = startTraining(options, () => {}, endless);
    const ended = expect(run.finished).rejects.toThrow("ended early");
    await run.kill();
    await ended;
  });

  it("turns what the thread prints into notes and warnings", async () => {
    const url = engine(
      "prints",
      `console.log("noise"); console.error("trouble"); await new Promise((r) => setTimeout(r, 50)); return ${JSON.stringify(summary)};`,
    );
    const events: TrainEvent[] = [];
    await startTraining(options, (event) => events.push(event), url).finished;
    expect(events).toContainEqual({ type: "info", message: "noise" });
    expect(events).toContainEqual({ type: "warning", message: "trouble" });
  });
});

describe("Ctrl-C", () => {
  /** Runs train with a stand-in engine in a process of its own; its first words on stderr each earn a signal. */
  async function interrupted(
    name: string,
    body: string,
    signals: readonly NodeJS.Signals[],
    json: boolean,
    pauseMs = 0,
  ) {
    const left = [...signals];
    const script = join(folder, `${name}-main.mjs`);
    const from = (path: string) => JSON.stringify(pathToFileURL(join(dist, path)).href);
    writeFileSync(
      script,
      `import { trainAndTell } from ${from("cli/train.js")};
       import { createTerminal, runToExit } from ${from("cli/terminal.js")};
       const options = ${JSON.stringify(options)};
       await runToExit(() => trainAndTell(options, createTerminal(${json}), ${JSON.stringify(engine(name, body))}));`,
    );
    const child = spawn(process.execPath, [script]);
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (data) => (stdout += data));
    child.stderr.on("data", (data) => {
      stderr += data;
      const signal = left.shift();
      if (signal) setTimeout(() => child.kill(signal), pauseMs);
    });
    const status = await new Promise((resolve) => child.on("exit", resolve));
    return { status, stdout, stderr };
  }

  it("once lets the step end and the checkpoint stand: code 130 and a result as the last line", async () => {
    const { status, stdout, stderr } = await interrupted(
      "once",
      `emit({ type: "info", message: "started" });
       while (!signal.interrupted);
       return { ...${JSON.stringify(summary)}, status: "interrupted" };`,
      ["SIGINT"],
      true,
    );
    expect(status).toBe(130);
    expect(summaryIn(stdout).status).toBe("interrupted");
    expect(stderr).toContain("Stopping: finishing this step");
  });

  it("twice ends at once", async () => {
    const body = `emit({ type: "info", message: "started" }); while (true);`;
    const { status, stdout } = await interrupted("twice", body, ["SIGINT", "SIGINT"], false, 300);
    expect({ status, stdout }).toEqual({ status: 130, stdout: "" });
    expect(existsSync(join(out, ".lowrank-lock"))).toBe(false);
  });

  it("sent on by npx right after the terminal sent it is one press", async () => {
    const body = `emit({ type: "info", message: "started" });
       while (!signal.interrupted);
       const until = Date.now() + 150; while (Date.now() < until);
       return { ...${JSON.stringify(summary)}, status: "interrupted" };`;
    const { status, stdout } = await interrupted("press", body, ["SIGINT", "SIGTERM"], true);
    expect(status).toBe(130);
    expect(summaryIn(stdout).status).toBe("interrupted");
  });
});

describe("a command that stages a folder", () => {
  it.each(["SIGINT", "SIGTERM"] as const)("clears it away at %s: code 130", async (signal) => {
    const place = join(folder, `staged ${signal}`, "model");
    const script = join(folder, `stage-${signal}.mjs`);
    const from = (path: string) => JSON.stringify(pathToFileURL(join(dist, path)).href);
    writeFileSync(
      script,
      `import { exitOnStop } from ${from("cli/signals.js")};
       import { stageFolder } from ${from("formats/staged-folder.js")};
       exitOnStop();
       const { path } = await stageFolder(${JSON.stringify(place)});
       console.log(path);
       setInterval(() => {}, 1000);`,
    );
    const child = spawn(process.execPath, [script]);
    child.stdout.on("data", () => {
      expect(readdirSync(dirname(place))).toHaveLength(2);
      child.kill(signal);
    });
    expect(await new Promise((resolve) => child.on("exit", resolve))).toBe(130);
    expect(readdirSync(dirname(place))).toEqual([]);
  });
});

describe("what train tells", () => {
  it("tells each event on stderr and collects losses", () => {
    const { terminal, stdout, stderr } = screen({ json: true });
    const losses: Point[] = [];
    const tell = eventTeller(terminal, losses);
    tell({
      type: "model",
      architecture: "llama",
      device: "cpu",
      trainableParameters: 1e6,
      totalParameters: 1e8,
      liveBytes: 5e8,
    });
    tell({
      type: "data",
      rows: 9,
      evalRows: 2,
      tokens: 900,
      targetTokens: 400,
      stepsPerEpoch: 1,
      totalSteps: 2,
      firstStep: 1,
    });
    const step = {
      type: "train",
      learningRate: 1e-4,
      gradNorm: 1,
      targetTokens: 4,
      tokens: 9,
      tokensPerSecond: 50,
      elapsedMs: 10,
    } as const;
    tell({ ...step, step: 1, loss: 3 });
    tell({ ...step, step: 2, loss: 2 });
    tell({ type: "eval", step: 2, loss: 1.9, perplexity: 6.7 });
    tell({ type: "sample", step: 2, prompt: "a", text: "b\nc" });
    tell({ type: "checkpoint", step: 2, path: "runs/x/checkpoints/step-2" });
    tell({ type: "warning", message: "two rows dropped" });
    expect(losses).toEqual([
      { step: 1, loss: 3 },
      { step: 2, loss: 2 },
    ]);
    expect(stdout()).toBe("");
    expect(stderr()).toMatch(/1\.00M of them train \(1\.00%\); 500 MB on cpu/);
    expect(stderr()).toMatch(/2 rows for evaluation; 2 steps/);
    expect(stderr()).toMatch(/step 1\/2 {2}loss 3\.0000/);
    expect(stderr()).toMatch(/step 2: evaluation loss 1\.9000, perplexity 6\.70/);
    expect(stderr()).toMatch(/"a" -> "b\\nc"/);
    expect(stderr()).toMatch(/warning: two rows dropped/);
  });

  it("ends with files and next commands, quoted for a shell", () => {
    const text = summaryLines(options, summary).join("\n");
    expect(text).toContain("loss 3.0000 -> 2.0000");
    expect(text).toContain("npx lowrank generate --model tiny --adapter 'runs/x y' --prompt");
    expect(text).toContain("npx lowrank eval --model tiny --adapter 'runs/x y' --data rows.jsonl");
    const full = summaryLines({ ...options, method: "full" }, summary).join("\n");
    expect(full).toContain("npx lowrank generate --model 'runs/x y' --prompt");
    const stopped = summaryLines(options, { ...summary, status: "interrupted", checkpoint: "c/step-2" });
    expect(stopped.at(-1)).toContain("--resume");
  });
});

describe("the lowrank command", () => {
  const lowrank = (...args: string[]) =>
    spawnSync(process.execPath, [main, ...args], {
      encoding: "utf8",
      env: { ...process.env, NO_COLOR: "1" },
    });

  it("prints help and version on stdout", () => {
    expect(lowrank("--help")).toMatchObject({ status: 0, stderr: "" });
    expect(lowrank("--help").stdout).toMatch(/Usage: lowrank <command>[\s\S]*train /);
    expect(lowrank("--version").stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
    const help = lowrank("train", "--help").stdout;
    expect(help).toMatch(/--rank <N> +rank of the adapters \(default: 8\)/);
    expect(help).toContain("--no-shuffle");
    expect(lowrank("help", "train").stdout).toBe(help);
  });

  it("prints the JSON Schema of a configuration", () => {
    const schema = JSON.parse(lowrank("train", "--print-schema").stdout);
    expect(schema.properties.rank).toMatchObject({ type: "integer", default: 8 });
  });

  const needed = ["--model", "m", "--data", "d", "--out", "o"];
  it.each([
    [["trian"], 'Did you mean "train"?'],
    [["--json", "train"], "expected a command before --json"],
    [["train"], "needs --model"],
    [["train", "--rnak", "4"], "unknown flag --rnak for lowrank train. Did you mean --rank?"],
    [["train", "--no-shufle"], "Did you mean --no-shuffle?"],
    [["train", ...needed, "--rank"], "--rank <N> needs a value"],
    [["train", ...needed, "--rank", "many"], '--rank: expected a whole number from 1 to 65536; got "many"'],
    [["train", ...needed, "extra"], 'unexpected "extra"'],
    [["train", "--rslora=yes"], "--rslora takes no value; write --rslora or --no-rslora."],
    [["train", "--no-shuffle=1"], "--no-shuffle takes no value; write --no-shuffle or --shuffle."],
  ])("%j is wrong usage: code 2, one message, nothing on stdout", (args, message) => {
    const { status, stdout, stderr } = lowrank(...args);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr).toContain(message);
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  it("names file and line of a wrong YAML key, and calls a missing file the user's error", () => {
    const path = join(folder, "train.yaml");
    writeFileSync(path, "model: tiny\nlearning_rate: 1e-4\n");
    const wrong = lowrank("train", path);
    expect(wrong.status).toBe(2);
    expect(wrong.stderr).toContain(
      'line 2: unknown key "learning_rate" for lowrank train. Did you mean "learningRate"?',
    );
    const absent = lowrank("train", join(folder, "absent.yaml"));
    expect(absent.status).toBe(1);
    expect(absent.stderr).toMatch(/absent\.yaml: the configuration cannot be read/);
  });
});
