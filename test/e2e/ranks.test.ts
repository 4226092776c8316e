// One run on several ranks, over every MPI that is installed: the same bytes from any number of ranks, resuming on
// another number, and an end for everybody whatever happens to one. Skipped where there is no MPI, unless
// LOWRANK_REQUIRE_MPI=1. Not here: what goes over the wire (bench/ranks).

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { lowrankMain, makeRows, scratchFolder, succeed, summaryIn, until, writeRows } from "./lowrank.ts";

interface Mpi {
  readonly name: string;
  readonly launcher: string;
  readonly arguments: readonly string[];
  /** The signal that its launcher passes on. */
  readonly stop: NodeJS.Signals;
  readonly otherLibrary: string;
}

const known: readonly Mpi[] = [
  {
    name: "Open MPI",
    launcher: "mpirun.openmpi",
    arguments: ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"],
    stop: "SIGUSR2",
    otherLibrary: "libmpich.so.12",
  },
  { name: "MPICH", launcher: "mpirun.mpich", arguments: [], stop: "SIGINT", otherLibrary: "libmpi.so.40" },
];
const installed = known.filter(({ launcher }) => spawnSync(launcher, ["--version"]).status === 0);
const required = process.env.LOWRANK_REQUIRE_MPI === "1";

it.runIf(required)("finds both MPIs", () => {
  expect(installed.map(({ name }) => name)).toEqual(known.map(({ name }) => name));
});

const folder = scratchFolder();
const data = writeRows(join(folder, "rows.jsonl"), makeRows(60));
const steps = 4;

/** Of the tiny base: large enough that every rank has a slice. */
const cases: Record<string, string[]> = {
  "LoRA in bf16 with dropout, accumulation not divisible": [
    ..."--rank 64 --precision bf16 --dropout 0.1 --gradient-accumulation 5 --eval-fraction 0.3".split(" "),
  ],
  "QLoRA, packed, fewer micro-batches than ranks": [
    ..."--method qlora --rank 64 --packing --sequence-length 128 --gradient-accumulation 2".split(" "),
  ],
  "the best step by answers, noise, steps by tokens": [
    ..."--rank 64 --learning-rate 3e-2 --neftune-alpha 5 --batch-size 2 --batch-tokens 90".split(" "),
    ..."--eval-fraction 0.3 --eval-every 1 --keep-best chrf --max-new-tokens 4".split(" "),
    ...["--forget", data],
  ],
  "the mean of checkpoints": [..."--rank 64 --average-checkpoints 2 --eval-fraction 0.3".split(" ")],
  "full, long micro-batches": [
    ..."--method full --learning-rate 1e-4 --batch-size 24 --gradient-accumulation 3".split(" "),
  ],
};

const trainArgs = (out: string, more: readonly string[] = []) => [
  ...["train", "--model", "tiny", "--data", data, "--out", join(folder, out), "--backend", "cpu"],
  ...["--max-steps", String(steps), "--save-every", "2", "--threads", "1", "--no-timing", ...more],
];

const environment = (more: Readonly<Record<string, string>> = {}) => ({
  ...process.env,
  NO_COLOR: "1",
  // Open MPI's own, so that tests in containers start at all.
  OMPI_ALLOW_RUN_AS_ROOT: "1",
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
  ...more,
});

function onRanks(mpi: Mpi, count: number, args: readonly string[], more = {}) {
  const command = [...mpi.arguments, "-n", String(count), process.execPath, lowrankMain, ...args];
  const run = spawnSync(mpi.launcher, command, {
    encoding: "utf8",
    env: environment(more),
    timeout: 120_000,
  });
  return { code: run.status, stdout: run.stdout, stderr: run.stderr };
}

/** Every rank runs a line of shell, in which $RANK is its number. */
function startShells(mpi: Mpi, count: number, line: string): ChildProcess {
  const script = `export RANK=\${OMPI_COMM_WORLD_RANK:-$PMI_RANK}; ${line}`;
  return spawn(mpi.launcher, [...mpi.arguments, "-n", String(count), "bash", "-c", script], {
    env: environment(),
    stdio: ["ignore", "pipe", "pipe"],
  });
}

async function ended(child: ChildProcess): Promise<{ code: number | null; stderr: string }> {
  let stderr = "";
  child.stderr!.setEncoding("utf8").on("data", (text) => {
    stderr += text;
  });
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  return { code, stderr };
}

/** Every file of a run that must not depend on the ranks. */
function digest(out: string): Record<string, string> {
  const root = join(folder, out);
  const names = ["metrics.jsonl", ...readdirSync(root).filter((name) => name.endsWith(".safetensors"))];
  const checkpoints = readdirSync(join(root, "checkpoints")).map((name) => `checkpoints/${name}/SHA256SUMS`);
  return Object.fromEntries(
    [...names, ...checkpoints].map((name) => [
      name,
      createHash("sha256")
        .update(readFileSync(join(root, name)))
        .digest("hex"),
    ]),
  );
}

/** Processes that still work in a run's folder. */
function processesIn(out: string): number {
  const found = spawnSync("pgrep", ["-fc", `main.js train.*--out ${join(folder, out)}`], {
    encoding: "utf8",
  });
  return Number(found.stdout.trim());
}

async function nobodyIn(out: string): Promise<void> {
  await until(() => processesIn(out) === 0, new Promise(() => {}));
}

const quote = (words: readonly string[]) => words.map((word) => `'${word}'`).join(" ");
const command = (args: readonly string[]) => quote([process.execPath, lowrankMain, ...args]);

for (const [name, more] of Object.entries(cases)) {
  describe.runIf(installed.length > 0)(name, () => {
    const one = `${name} on one`;
    it("comes to an end on one", () => {
      succeed(...trainArgs(one, more));
    });
    for (const mpi of installed) {
      // Both small and large numbers of ranks, over both libraries.
      const counts = mpi.name === "MPICH" ? [3] : [2, 4];
      it.each(counts)(`is the same under ${mpi.name} on %i`, (count) => {
        const out = `${name} ${mpi.name} ${count}`;
        const { code, stderr } = onRanks(mpi, count, trainArgs(out, more));
        expect(code, stderr).toBe(0);
        expect(digest(out)).toEqual(digest(one));
      });
    }
  });
}

for (const mpi of installed) {
  describe(mpi.name, () => {
    const full = cases["full, long micro-batches"]!;

    it("keeps the optimizer's state in shares without changing a bit, and resumes on fewer", () => {
      const out = `${mpi.name} shares`;
      const shares = [...full, "--shard-optimizer"];
      const first = onRanks(mpi, 3, trainArgs(out, shares));
      expect(first.code, first.stderr).toBe(0);
      expect(digest(out)).toEqual(digest("full, long micro-batches on one"));
      rmSync(join(folder, out, "checkpoints", `step-${steps}`), { recursive: true });
      rmSync(join(folder, out, "model.safetensors"));
      const rest = onRanks(mpi, 2, trainArgs(out, [...shares, "--resume"]));
      expect(rest.code, rest.stderr).toBe(0);
      expect(digest(out)).toEqual(digest("full, long micro-batches on one"));
    });

    it("goes on after a kill on three ranks with two, then one", async () => {
      const out = `${mpi.name} killed`;
      const more = [...cases["LoRA in bf16 with dropout, accumulation not divisible"]!, "--max-steps", "40"];
      const whole = `${mpi.name} whole`;
      succeed(...trainArgs(whole, more));
      const child = startShells(
        mpi,
        3,
        `echo $$ > '${folder}/pid-'$RANK; exec ${command(trainArgs(out, more))}`,
      );
      const end = ended(child);
      await until(() => existsSync(join(folder, out, "checkpoints", "step-6")), end);
      process.kill(Number(readFileSync(join(folder, "pid-2"), "utf8")), "SIGKILL");
      expect((await end).code).not.toBe(0);
      await nobodyIn(out);
      const second = startShells(mpi, 2, `exec ${command(trainArgs(out, [...more, "--resume"]))}`);
      const secondEnd = ended(second);
      await until(() => existsSync(join(folder, out, "checkpoints", "step-12")), secondEnd);
      second.kill(mpi.stop);
      await secondEnd;
      await nobodyIn(out);
      succeed(...trainArgs(out, [...more, "--resume"]));
      const [left, right] = [digest(out), digest(whole)];
      expect(left).toEqual(right);
    });

    it("saves and stops on a signal that the launcher passes on", async () => {
      const out = `${mpi.name} stopped`;
      const child = startShells(mpi, 2, `exec ${command(trainArgs(out, ["--max-steps", "4000"]))}`);
      const end = ended(child);
      await until(() => existsSync(join(folder, out, "checkpoints", "step-4")), end);
      child.kill(mpi.stop);
      expect((await end).stderr).toContain("finishing this step and saving");
      const record = JSON.parse(readFileSync(join(folder, out, "run.json"), "utf8"));
      expect(record.status).toBe("interrupted");
    });

    it("ends when a rank no longer answers, and says which", async () => {
      const out = `${mpi.name} silent`;
      const args = trainArgs(out, ["--max-steps", "4000", "--collective-timeout", "2"]);
      const child = startShells(mpi, 3, `echo $$ > '${folder}/pid-'$RANK; exec ${command(args)}`);
      const end = ended(child);
      await until(() => existsSync(join(folder, out, "checkpoints", "step-4")), end);
      process.kill(Number(readFileSync(join(folder, "pid-1"), "utf8")), "SIGSTOP");
      const { code, stderr } = await end;
      expect(code).not.toBe(0);
      expect(stderr).toMatch(/no answer from rank 1 on \S+ for 2 s/);
      await nobodyIn(out);
    });

    it("ends when one rank cannot read its data, or has other data", async () => {
      const out = `${mpi.name} data`;
      const [broken, fewer] = [join(folder, "broken.jsonl"), join(folder, "fewer.jsonl")];
      writeFileSync(broken, '{"prompt": "a"\n');
      writeRows(fewer, makeRows(59));
      for (const [other, expected] of [
        [broken, "rank 1 on"],
        [fewer, "is not set up as rank 0"],
      ] as const) {
        const args = command(trainArgs(out)).replace(`'${data}'`, "$D");
        const line = `if [ $RANK = 1 ]; then D='${other}'; else D='${data}'; fi; exec ${args}`;
        const { code, stderr } = await ended(startShells(mpi, 2, line));
        expect(code).not.toBe(0);
        expect(stderr).toContain(expected);
      }
      expect(existsSync(join(folder, out, "run.json"))).toBe(false);
    });

    it("stops all ranks at the same step when a loss is not finite", () => {
      const out = `${mpi.name} diverges`;
      const more = ["--learning-rate", "1e30", "--max-grad-norm", "0", "--gradient-accumulation", "3"];
      const { code, stderr } = onRanks(mpi, 2, trainArgs(out, more));
      expect(code).toBe(1);
      expect(stderr).toMatch(/step \d: the (loss|gradient) is not a finite number/);
      expect(readdirSync(join(folder, out, "checkpoints"))).toHaveLength(1);
    });

    it("prints the lines of rank 0 alone", () => {
      const { code, stdout } = onRanks(mpi, 3, trainArgs(`${mpi.name} json`, ["--json"]));
      expect(code).toBe(0);
      expect(summaryIn(stdout).steps).toBe(steps);
    });

    it("measures the same, losses and answers, on any number of ranks", () => {
      const args = [
        "eval",
        "--model",
        "tiny",
        "--data",
        data,
        "--backend",
        "cpu",
        "--threads",
        "1",
        "--json",
      ];
      const measured = [...args, "--metrics", "perplexity,rouge", "--max-new-tokens", "6"];
      const predictions = (name: string) => ["--predictions", join(folder, `${mpi.name} ${name}.jsonl`)];
      const one = JSON.parse(succeed(...measured, ...predictions("one")).stdout);
      const run = onRanks(mpi, 3, [...measured, ...predictions("three")]);
      expect(run.code, run.stderr).toBe(0);
      expect({ ...JSON.parse(run.stdout), elapsedMs: 0 }).toEqual({ ...one, elapsedMs: 0 });
      const [left, right] = ["one", "three"].map((name) =>
        readFileSync(join(folder, `${mpi.name} ${name}.jsonl`), "utf8"),
      );
      expect(left).toBe(right);
    });

    it.runIf(installed.length > 1)("refuses the library of another MPI, which would train alone", () => {
      const out = `${mpi.name} mismatch`;
      const run = onRanks(mpi, 2, trainArgs(out), { LOWRANK_MPI: mpi.otherLibrary });
      expect(run.code).not.toBe(0);
      expect(run.stderr).toContain("launcher and library are of different MPIs");
      expect(existsSync(join(folder, out, "run.json"))).toBe(false);
    });
  });
}

it.runIf(installed.length > 0)("compares the same on two ranks", () => {
  const args = (out: string) => [
    ...["compare", "--model", "tiny", "--data", data, "--eval-data", data, "--out", join(folder, out)],
    ...["--methods", "lora", "--max-steps", "2", "--gradient-accumulation", "2", "--learning-rates", "1e-3"],
    ...["--backend", "cpu", "--threads", "1", "--json"],
  ];
  const one = JSON.parse(succeed(...args("compare one")).stdout);
  const run = onRanks(installed[0]!, 2, args("compare two"));
  expect(run.code, run.stderr).toBe(0);
  const scores = ({ rows }: { rows: { scores: unknown }[] }) => rows.map((row) => row.scores);
  expect(scores(JSON.parse(run.stdout))).toEqual(scores(one));
});

it.runIf(installed.length > 0)("says what is missing where no library can be opened", () => {
  const { code, stderr } = onRanks(installed[0]!, 2, trainArgs("no library"), {
    LOWRANK_MPI: "/nowhere/libmpi.so",
  });
  expect(code).not.toBe(0);
  expect(stderr).toContain("no MPI library can be opened (/nowhere/libmpi.so");
});
