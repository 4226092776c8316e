// What a run outlives: a second one started in its folder, a terminal or a reader that goes away, and its own planned end.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  backendName,
  expectRefusal,
  type Finished,
  filesOf,
  lowrank,
  lowrankMain,
  makeRows,
  resultOf,
  scratchFolder,
  startLowrank,
  succeed,
  until,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(20));

const trainArgs = (out: string, ...more: string[]) => [
  ...["train", "--model", model, "--data", data, "--out", out, "--backend", backendName],
  ...["--no-timing", "--rank", "4", "--batch-size", "2", "--schedule", "constant", ...more],
];
const linesOf = (out: string): { type: string; step: number }[] =>
  existsSync(join(out, "metrics.jsonl"))
    ? readFileSync(join(out, "metrics.jsonl"), "utf8")
        .split("\n")
        .filter((line) => line.endsWith("}"))
        .map((line) => JSON.parse(line))
    : [];
const stepsOf = (out: string) => linesOf(out).flatMap(({ type, step }) => (type === "train" ? [step] : []));
const checkpointsOf = (out: string) =>
  readdirSync(join(out, "checkpoints")).sort((a, b) => Number(a.slice(5)) - Number(b.slice(5)));
const oneTo = (count: number) => Array.from({ length: count }, (_, i) => i + 1);
const endless = ["--max-steps", "1000000"];

describe("two runs in one folder", () => {
  it.each([false, true])(
    "the second is refused by name, --resume %s, and the first is whole",
    async (resume) => {
      const out = join(folder, `two ${resume}`);
      const { child, finished } = startLowrank(trainArgs(out, ...endless));
      await until(() => stepsOf(out).length > 2, finished);
      const second = lowrank(
        ...trainArgs(out, ...endless, "--learning-rate", "0.5", ...(resume ? ["--resume"] : [])),
      );
      expectRefusal(second, 1, [`--out ${out}`, `pid ${child.pid}`, `kill ${child.pid}`, "another folder"]);
      child.kill("SIGTERM");
      expect((await finished).status).toBe(130);
      const steps = stepsOf(out);
      expect(steps).toEqual(oneTo(steps.length));
      expect(JSON.parse(readFileSync(join(out, "run.json"), "utf8"))).toMatchObject({
        status: "interrupted",
      });
      expect(readdirSync(out).filter((name) => name.startsWith("."))).toEqual([]);
    },
  );

  it("started at once: one runs, one is refused", async () => {
    const out = join(folder, "at once");
    const both = await Promise.all(
      [1, 2].map(() => startLowrank(trainArgs(out, "--max-steps", "30")).finished),
    );
    expect(both.map(({ status }) => status).sort()).toEqual([0, 1]);
    expect(stepsOf(out)).toEqual(oneTo(30));
  });

  it("a killed one stops nobody, and what it left goes", async () => {
    const out = join(folder, "killed");
    const { child, finished } = startLowrank(trainArgs(out, ...endless));
    await until(() => stepsOf(out).length > 1, finished);
    child.kill("SIGKILL");
    await finished;
    expect(readdirSync(out)).toContain(".lowrank-lock");
    mkdirSync(join(out, "checkpoints"), { recursive: true });
    mkdirSync(join(out, "checkpoints/.step-9.123.tmp"));
    succeed(...trainArgs(out, "--max-steps", "5", "--resume"));
    expect(stepsOf(out)).toEqual(oneTo(5));
    expect(
      [...readdirSync(out), ...readdirSync(join(out, "checkpoints"))].filter((name) => name.startsWith(".")),
    ).toEqual([]);
  });

  it("a comparison's folder has one comparison", async () => {
    const out = join(folder, "compare");
    const args = [
      "compare",
      "--model",
      model,
      "--data",
      data,
      "--eval-data",
      data,
      "--out",
      out,
      "--methods",
      "lora",
    ];
    const { child, finished } = startLowrank([...args, "--max-steps", "100000", "--backend", backendName]);
    await until(() => existsSync(join(out, ".lowrank-lock")), finished);
    expectRefusal(lowrank(...args, "--backend", backendName), 1, [`--out ${out}`, `pid ${child.pid}`]);
    child.kill("SIGKILL");
    await finished;
  });
});

/** Runs a shell line in which $TRAIN is the command; the exit code of the first part of its pipe. */
function shell(line: string, args: readonly string[]): { code: number; stderr: string } {
  const quoted = [process.execPath, lowrankMain, ...args].map((word) => `'${word}'`).join(" ");
  const script = `${line.replace("$LOWRANK", quoted)}; exit \${PIPESTATUS[0]}`;
  const { status, stderr } = spawnSync("bash", ["-c", script], { encoding: "utf8" });
  return { code: status!, stderr };
}
const noBash = spawnSync("bash", ["-c", "true"]).status === 0 ? "" : "there is no bash";

describe.skipIf(noBash)("streams that end before the run", () => {
  it.each([
    ["both, after a line", "$LOWRANK 2>&1 | head -1 > /dev/null"],
    ["stdout, at once", "$LOWRANK 2> /dev/null | true"],
    ["stderr, at once", "$LOWRANK 2>&1 > /dev/null | true"],
    ["both closed", "$LOWRANK >&- 2>&-"],
    ...(existsSync("/dev/full") ? [["a full disk", "$LOWRANK > /dev/full 2>&1"]] : []),
  ])("%s", (name, line) => {
    const out = join(folder, `stream ${name}`);
    expect(shell(line!, trainArgs(out, "--max-steps", "20")).code).toBe(0);
    expect(stepsOf(out)).toEqual(oneTo(20));
    expect(existsSync(join(out, "adapter_model.safetensors"))).toBe(true);
  });

  it("the exit code stays what the run was", () => {
    const out = join(folder, "stream refused");
    expect(shell("$LOWRANK 2>&1 | true", trainArgs(out, "--max-steps", "3", "--resume")).code).toBe(1);
    expect(shell("$LOWRANK 2>&1 | true", ["train", "--nonsense"]).code).toBe(2);
    expect(shell("$LOWRANK | true", ["devices", "--json"]).code).toBe(0);
  });

  it.skipIf(!existsSync("/dev/full"))("a result that a full disk took is said to be missing", () => {
    const { code, stderr } = shell("$LOWRANK > /dev/full", ["devices", "--json"]);
    expect(code).toBe(0);
    expect(stderr).toMatch(/warning: the result cannot be written to stdout \(ENOSPC\)/);
  });
});

describe("a hang-up", () => {
  it("is minded by no run without a terminal", async () => {
    const out = join(folder, "nohup");
    const { child, finished } = startLowrank(trainArgs(out, ...endless));
    await until(() => stepsOf(out).length > 1, finished);
    child.kill("SIGHUP");
    const then = stepsOf(out).length;
    await until(() => stepsOf(out).length > then + 20, finished);
    expect(child.exitCode).toBeNull();
    child.kill("SIGINT");
    expect((await finished).status).toBe(130);
  });

  const noScript =
    spawnSync("script", ["-qec", "true", "/dev/null"]).status === 0 ? "" : "there is no script(1)";
  it.skipIf(noScript)("saves where there is a terminal, however often it comes", async () => {
    const out = join(folder, "hung up");
    const words = [process.execPath, lowrankMain, ...trainArgs(out, ...endless)].map((word) => `'${word}'`);
    const pidFile = join(folder, "pid");
    // script(1) gives it a terminal; the shell is replaced, so that its number is the command's.
    const line = `echo $$ > '${pidFile}'; exec ${words.join(" ")}`;
    const wrapper = join(folder, "wrapper.sh");
    writeFileSync(wrapper, line);
    const terminal = spawn("script", ["-qec", `sh '${wrapper}'`, "/dev/null"], { stdio: "ignore" });
    const finished = new Promise((resolve) => terminal.on("exit", resolve));
    await until(() => stepsOf(out).length > 1, finished);
    const pid = Number(readFileSync(pidFile, "utf8"));
    for (let i = 0; i < 3; i++) process.kill(pid, "SIGHUP");
    expect(await finished).toBe(130);
    expect(JSON.parse(readFileSync(join(out, "run.json"), "utf8")).status).toBe("interrupted");
    expect(checkpointsOf(out)).toEqual([`step-${stepsOf(out).length}`]);
  });
});

it("saving by the clock changes nothing, keeps no more than --keep, and displaces itself first", () => {
  const args = ["--max-steps", "11", "--save-every", "4", "--keep", "2"];
  const plain = join(folder, "clock off");
  succeed(...trainArgs(plain, ...args, "--save-minutes", "0", "--no-save-end"));
  expect(checkpointsOf(plain)).toEqual(["step-4", "step-8"]);
  const clocked = join(folder, "clock on");
  const { stderr } = succeed(...trainArgs(clocked, ...args, "--save-minutes", "1e-9", "--no-save-end"));
  for (const step of oneTo(10)) expect(stderr).toContain(`step ${step}: saved`);
  expect(resultOf(clocked)).toEqual(resultOf(plain));
  expect(checkpointsOf(clocked)).toEqual(["step-8", "step-10"]);
  // It is no part of what the run is.
  succeed(...trainArgs(clocked, ...args, "--save-minutes", "0", "--resume"));
  expect(resultOf(clocked)).toEqual(resultOf(plain));
});

describe("a run that was done", () => {
  const more = ["--eval-fraction", "0.2", "--eval-every", "3", "--gradient-accumulation", "2"];

  it.each([
    ["steps", ["--max-steps", "7"], ["--max-steps", "16"]],
    ["epochs", ["--epochs", "0.5"], ["--epochs", "2.25"]],
    ["packed epochs", ["--epochs", "1", "--packing"], ["--epochs", "2.5", "--packing"]],
  ])("goes on for more %s, and is the longer run", (name, few, many) => {
    const whole = join(folder, `whole ${name}`);
    succeed(...trainArgs(whole, ...many, ...more));
    const out = join(folder, `longer ${name}`);
    succeed(...trainArgs(out, ...few, ...more));
    expect(linesOf(out).length).toBeLessThan(linesOf(whole).length);
    const { stderr } = succeed(...trainArgs(out, ...many, ...more, "--resume"));
    expect(stderr).toContain("the learning rate is constant");
    expect(resultOf(out)).toEqual(resultOf(whole));
    // Once more: there is nothing left to do, and nothing changes.
    succeed(...trainArgs(out, ...many, ...more, "--resume"));
    expect(resultOf(out)).toEqual(resultOf(whole));
    const fewer: Finished = lowrank(...trainArgs(out, ...few, ...more, "--resume"));
    expectRefusal(fewer, 1, ["totalSteps was", "may grow"]);
  });

  it("in full, and says what a schedule that ends with the run then does", () => {
    const out = join(folder, "longer linear");
    const args = (...flags: string[]) => trainArgs(out, "--method", "full", "--schedule", "linear", ...flags);
    succeed(...args("--max-steps", "4"));
    const before = filesOf(out, ["model.safetensors"]);
    const { stderr } = succeed(...args("--max-steps", "8", "--resume"));
    expect(stderr).toMatch(
      /warning: .*had 4 steps and now has 8: its linear schedule now ends at step 8.*goes on at 0\.0000100 after 0\.00000500/,
    );
    expect(stepsOf(out)).toEqual(oneTo(8));
    expect(filesOf(out, ["model.safetensors"])).not.toEqual(before);
  });

  it("without a checkpoint starts over, with a word", () => {
    const out = join(folder, "no checkpoint");
    succeed(...trainArgs(out, "--max-steps", "3", "--no-save-end"));
    expect(existsSync(join(out, "checkpoints"))).toBe(false);
    const { stderr } = succeed(...trainArgs(out, "--max-steps", "6", "--resume"));
    expect(stderr).toMatch(/warning: .*no checkpoint to go on from; the run starts again/);
    expect(stepsOf(out)).toEqual(oneTo(6));
  });
});

it("a batch larger than the data is planned as the data", () => {
  const needed = (...more: string[]) => {
    const { stdout } = succeed("check", ...trainArgs(join(folder, "unmade"), "--json", ...more).slice(1));
    return JSON.parse(stdout).memory.neededBytes as number;
  };
  expect(needed("--batch-size", "60000")).toBe(needed("--batch-size", "20"));
  expect(needed("--batch-size", "19")).toBeLessThan(needed("--batch-size", "20"));
  const packed = ["--packing", "--sequence-length", "100000"];
  expect(needed("--batch-size", "60000", ...packed)).toBe(needed("--batch-size", "1", ...packed));
});

it("an address space of 4 GB is enough for rows in JSON", {
  skip: noBash !== "" || process.platform !== "linux",
}, () => {
  const out = join(folder, "narrow");
  const { code, stderr } = shell("ulimit -v 4000000; $LOWRANK", trainArgs(out, "--max-steps", "3"));
  expect(code, stderr).toBe(0);
  rmSync(out, { recursive: true });
});
