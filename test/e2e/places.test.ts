// Where a run writes, and what it finds there: folders that are taken or cannot be written, another run's checkpoint, a
// damaged one, and a disk that fills up while saving. File systems are mounted for the last two, which needs root.

import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import {
  backendName,
  expectRefusal,
  lowrank,
  makeRows,
  resultOf,
  scratchFolder,
  succeed,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(20));

const trainArgs = (out: string, ...more: string[]) => [
  ...["train", "--model", model, "--data", data, "--out", out, "--backend", backendName],
  ...["--max-steps", "6", "--save-every", "2", "--no-timing", "--rank", "4", ...more],
];

const mounts: string[] = [];
afterAll(() => {
  for (const path of mounts) spawnSync("umount", [path]);
});

/** Mounts a file system in memory; the reason when this process may not. */
function mountMemory(name: string, options: string): { path: string; refused: string } {
  const path = join(folder, name);
  mkdirSync(path, { recursive: true });
  const { status, stderr, error } = spawnSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", path]);
  if (status === 0) mounts.push(path);
  const said = String(stderr ?? "").trim() || error?.message || `exit code ${status}`;
  return { path, refused: status === 0 ? "" : `a file system cannot be mounted here: ${said}` };
}

it("a file in the way, and a folder that is taken", () => {
  expectRefusal(lowrank(...trainArgs(data)), 1, [data, "give another"]);
  expectRefusal(lowrank(...trainArgs(join(data, "below"))), 1, [join(data, "below")]);
  const taken = join(folder, "taken");
  mkdirSync(taken);
  writeFileSync(join(taken, "notes.txt"), "mine");
  expectRefusal(lowrank(...trainArgs(taken)), 1, ["not empty", "--resume"]);
  expectRefusal(lowrank(...trainArgs(taken, "--resume")), 1, ["no run of lowrank"]);
  expectRefusal(lowrank(...trainArgs(join(folder, "absent"), "--resume")), 1, ["nothing to resume"]);
  expect(readdirSync(taken)).toEqual(["notes.txt"]);
});

it("a run that was killed before its record starts anew", () => {
  const out = join(folder, "early");
  mkdirSync(out);
  writeFileSync(join(out, "metrics.jsonl"), "");
  writeFileSync(join(out, ".run.json.123-0a1b2c3d.tmp"), "{");
  succeed(...trainArgs(out, "--resume"));
  expect(readdirSync(out).filter((name) => name.startsWith("."))).toEqual([]);
});

it("a foreign checkpoint is refused, and names what differs", () => {
  const out = join(folder, "run");
  succeed(...trainArgs(out));
  const foreign: [flags: string[], ...parts: string[]][] = [
    [["--learning-rate", "0.5"], "learningRate was 0.0002 and is now 0.5", "another run"],
    [["--rank", "2"], "rank was 4 and is now 2"],
    [["--data", writeRows(join(folder, "other.jsonl"), makeRows(21))], "dataHash"],
    [["--batch-size", "3"], "batchSize was 4 and is now 3"],
    [["--method", "full", "--learning-rate", "2e-4"], 'method was "lora" and is now "full"'],
  ];
  for (const [flags, ...parts] of foreign)
    expectRefusal(lowrank(...trainArgs(out, "--resume", ...flags)), 1, ["step-6", ...parts]);
});

/** Flips one bit in the middle of a file. */
function flipBit(path: string): void {
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1]! ^= 4;
  writeFileSync(path, bytes);
}

it("a damaged checkpoint is told by name and set aside; the one before comes to the same result", () => {
  const whole = join(folder, "undamaged");
  succeed(...trainArgs(whole));
  const damages: Record<string, (checkpoint: string) => void> = {
    "trainable.safetensors": (checkpoint) => flipBit(join(checkpoint, "trainable.safetensors")),
    "optimizer.safetensors": (checkpoint) => rmSync(join(checkpoint, "optimizer.safetensors")),
    "adapter_model.safetensors": (checkpoint) =>
      writeFileSync(join(checkpoint, "adapter_model.safetensors"), ""),
    "state.json": (checkpoint) => writeFileSync(join(checkpoint, "state.json"), "{"),
    SHA256SUMS: (checkpoint) => rmSync(join(checkpoint, "SHA256SUMS")),
    "step-6": (checkpoint) => {
      rmSync(checkpoint, { recursive: true });
      writeFileSync(checkpoint, "");
    },
  };
  for (const [name, damage] of Object.entries(damages)) {
    const out = join(folder, "damaged");
    rmSync(out, { recursive: true, force: true });
    cpSync(whole, out, { recursive: true });
    damage(join(out, "checkpoints/step-6"));
    rmSync(join(out, "adapter_model.safetensors"));
    const { stderr } = succeed(...trainArgs(out, "--resume"));
    const told = stderr.split("\n").find((line) => line.startsWith("warning:") && line.includes("set aside"));
    expect(told, stderr).toContain(name);
    expect(told).toContain("goes on from step 4");
    expect(resultOf(out), name).toEqual(resultOf(whole));
    expect(readdirSync(join(out, "checkpoints")).sort()).toEqual(["damaged-step-6", "step-4", "step-6"]);
  }
});

it("without a sound checkpoint, a run is not started over by itself", () => {
  const out = join(folder, "all damaged");
  succeed(...trainArgs(out));
  for (const step of [4, 6]) flipBit(join(out, `checkpoints/step-${step}/state.json`));
  expectRefusal(lowrank(...trainArgs(out, "--resume")), 1, [
    "step-6",
    "step-4",
    "no checkpoint is as it was saved",
  ]);
  expect(readdirSync(join(out, "checkpoints")).sort()).toEqual(["step-4", "step-6"]);
});

it("a checkpoint of a later version is left alone", () => {
  const out = join(folder, "later");
  succeed(...trainArgs(out));
  const path = join(out, "checkpoints/step-6/state.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), version: 3 }));
  expectRefusal(lowrank(...trainArgs(out, "--resume")), 1, ["step-6", "later version of lowrank"]);
  expect(existsSync(path)).toBe(true);
});

it("a record that was removed is told of, and the run goes on", () => {
  const out = join(folder, "no record");
  succeed(...trainArgs(out));
  rmSync(join(out, "metrics.jsonl"));
  const { stderr } = succeed(...trainArgs(out, "--resume"));
  expect(stderr).toMatch(/warning: .*metrics\.jsonl is gone/);
});

it.each([
  ["a file in the way", () => writeRows(join(folder, "cache-file"), [])],
  ["no folder at all", () => "/proc/none"],
])("a cache that cannot be written is told of and passed over: %s", (_, place) => {
  const out = join(folder, `cacheless ${_}`);
  const before = process.env.LOWRANK_CACHE;
  process.env.LOWRANK_CACHE = place();
  try {
    const { stderr } = succeed(...trainArgs(out));
    expect(stderr).toMatch(/warning: tokenised data is not kept for the next run/);
  } finally {
    process.env.LOWRANK_CACHE = before;
  }
});

it("a read-only file system", ({ skip }) => {
  const { path, refused } = mountMemory("read-only", "size=64k,ro");
  skip(refused !== "", refused);
  expectRefusal(lowrank(...trainArgs(join(path, "run"))), 1, [join(path, "run"), "EROFS"]);
});

it("a disk that fills while saving: the last checkpoint stands, and the run goes on once there is space", ({
  skip,
}) => {
  const whole = join(folder, "whole");
  succeed(...trainArgs(whole));
  const sizes = readdirSync(join(whole, "checkpoints/step-6")).map(
    (name) => Math.ceil(readFileSync(join(whole, "checkpoints/step-6", name)).byteLength / 4096) * 4096,
  );
  const checkpointBytes = sizes.reduce((sum, size) => sum + size, 0);

  const { path, refused } = mountMemory("small", "size=8m");
  skip(refused !== "", refused);
  const ballast = join(path, "ballast");
  const { bavail, bsize } = statfsSync(path);
  writeFileSync(ballast, Buffer.alloc(bavail * bsize - Math.round(1.6 * checkpointBytes)));
  const out = join(path, "run");
  expectRefusal(lowrank(...trainArgs(out)), 1, ["step-4", "the disk is full", "Free some space"]);
  expect(readdirSync(join(out, "checkpoints"))).toEqual(["step-2"]);
  expect(existsSync(join(out, "adapter_model.safetensors"))).toBe(false);

  // Still full: the run gets as far as before and says the same.
  expectRefusal(lowrank(...trainArgs(out, "--resume")), 1, ["step-4", "the disk is full"]);
  expect(readdirSync(join(out, "checkpoints"))).toEqual(["step-2"]);

  rmSync(ballast);
  succeed(...trainArgs(out, "--resume"));
  expect(resultOf(out)).toEqual(resultOf(whole));
});

it("a disk that is full from the start", ({ skip }) => {
  const { path, refused } = mountMemory("full", "size=64k");
  skip(refused !== "", refused);
  const { bavail, bsize } = statfsSync(path);
  writeFileSync(join(path, "ballast"), Buffer.alloc(bavail * bsize));
  expectRefusal(lowrank(...trainArgs(join(path, "run"))), 1, ["the disk is full"]);
});

it("a disk without room for the checkpoints that nobody asked for ends no run", ({ skip }) => {
  const { path, refused } = mountMemory("tight", "size=8m");
  skip(refused !== "", refused);
  const whole = join(folder, "roomy");
  const args = ["--save-every", "1000", "--save-minutes", "1e-9"];
  succeed(...trainArgs(whole, ...args));
  const { bavail, bsize } = statfsSync(path);
  // Room for the result and the record.
  const adapter = readFileSync(join(whole, "adapter_model.safetensors")).byteLength;
  writeFileSync(join(path, "ballast"), Buffer.alloc(bavail * bsize - 2 * adapter - 65_536));
  const out = join(path, "run");
  const { stderr } = succeed(...trainArgs(out, ...args));
  expect(stderr).toMatch(/warning: no checkpoint of step 6 \(the disk is full\); the run goes on without it/);
  expect(resultOf(out)).toEqual(resultOf(whole));
});
