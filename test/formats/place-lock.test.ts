// Locks on places: one holder, stale ones recognised by what is known of their process, and takeovers that many try at
// once. And what holds locks: staged folders and output files.

import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { makeFolder } from "../../src/formats/make-folder.ts";
import { claimOutputFile } from "../../src/formats/output-file.ts";
import { lockBeside, lockPlace } from "../../src/formats/place-lock.ts";
import { fateOf, thisProcess } from "../../src/formats/process-identity.ts";
import { stageFolder } from "../../src/formats/staged-folder.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-locks-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let made = 0;
function freshFolder(): string {
  const folder = join(root, String(++made));
  mkdirSync(folder);
  return folder;
}

const options = { place: "--out runs/a", instead: "give another folder" };
const me = thisProcess();
/** The number of a process that has ended. */
const endedPid = spawnSync(process.execPath, ["-e", ""]).pid;
const lockOf = (holder: object) =>
  JSON.stringify({ ...me, since: "2026-01-01T00:00:00Z", nonce: "0123", ...holder });

describe("a lock", () => {
  it("has one holder, is refused by name, and goes with its release", async () => {
    const folder = freshFolder();
    const path = join(folder, ".lock");
    const lock = await lockPlace(path, options);
    await expect(lockPlace(path, options)).rejects.toThrow(
      new RegExp(
        `^--out runs/a: this process is at work here \\(pid ${process.pid}, since .*kill ${process.pid}.*another folder`,
      ),
    );
    lock.release();
    lock.release();
    expect(readdirSync(folder)).toEqual([]);
    (await lockPlace(path, options)).release();
  });

  it("of a process that lives on is refused, with its number", async () => {
    const path = join(freshFolder(), ".lock");
    const parent = { pid: process.ppid, started: undefined };
    writeFileSync(path, lockOf(parent));
    await expect(lockPlace(path, options)).rejects.toThrow(
      `another process is at work here (pid ${process.ppid}`,
    );
  });

  it.each([
    ["a process that has ended", lockOf({ pid: endedPid })],
    ["a number that another process has now", lockOf({ started: "0" })],
    ["another boot", lockOf({ boot: "00000000-0000-0000-0000-000000000000" })],
    ["nobody: half a line", '{"pid": 12'],
    ["nobody: nothing", ""],
  ])("is taken over from %s", { skip: me.boot === undefined }, async (_, content) => {
    const folder = freshFolder();
    const path = join(folder, ".lock");
    writeFileSync(path, content);
    const lock = await lockPlace(path, options);
    expect(JSON.parse(readFileSync(path, "utf8"))).toMatchObject({ pid: process.pid });
    lock.release();
    expect(readdirSync(folder)).toEqual([]);
  });

  it("is no folder", async () => {
    const path = join(freshFolder(), ".lock");
    mkdirSync(path);
    await expect(lockPlace(path, options)).rejects.toThrow(/no lock is in its place; remove it/);
  });

  it("is taken over by one of many who find it stale at once", async () => {
    const path = join(freshFolder(), ".lock");
    for (let round = 0; round < 5; round++) {
      writeFileSync(path, lockOf({ pid: endedPid, nonce: `round ${round}` }));
      const outcomes = await Promise.allSettled(Array.from({ length: 12 }, () => lockPlace(path, options)));
      const taken = outcomes.filter((outcome) => outcome.status === "fulfilled");
      expect(taken).toHaveLength(1);
      expect(existsSync(path)).toBe(true);
      taken[0]!.value.release();
    }
  });

  it("is taken over although the one who took over before was killed at it", async () => {
    const folder = freshFolder();
    const path = join(folder, ".lock");
    const stale = lockOf({ pid: endedPid });
    writeFileSync(path, stale);
    const { createHash } = await import("node:crypto");
    const guard = `${path}.${createHash("sha256").update(stale).digest("hex").slice(0, 16)}`;
    writeFileSync(guard, lockOf({ pid: endedPid, nonce: "guard" }));
    (await lockPlace(path, options)).release();
    expect(readdirSync(folder)).toEqual([]);
  });

  describe("of a machine or container that cannot be looked into", () => {
    const far = { host: "far-away", boot: "00000000-0000-0000-0000-000000000000" };
    const quick = { ...options, silenceMs: 600 };

    it("is refused while its holder touches it", async () => {
      const path = join(freshFolder(), ".lock");
      writeFileSync(path, lockOf(far));
      let beats = 0;
      const pulse = setInterval(() => utimesSync(path, new Date(), Date.now() / 1000 + ++beats), 50);
      await expect(lockPlace(path, quick)).rejects.toThrow(
        new RegExp(`pid ${process.pid} on far-away.*stop it there`),
      );
      clearInterval(pulse);
    });

    it("is taken over after a silence", async () => {
      const path = join(freshFolder(), ".lock");
      writeFileSync(path, lockOf(far));
      const waits: string[] = [];
      const lock = await lockPlace(path, { ...quick, onWait: (message) => waits.push(message) });
      expect(waits).toEqual([expect.stringContaining("far-away")]);
      lock.release();
    });

    it("tells a holder that was stopped too long that it lost the place", async () => {
      const path = join(freshFolder(), ".lock");
      const lost = new Promise<Error>((resolve) => {
        void lockPlace(path, { ...options, pulseMs: 20, onLost: resolve }).then(() =>
          writeFileSync(path, lockOf(far)),
        );
      });
      expect((await lost).message).toContain("another process works here now");
      expect(readFileSync(path, "utf8")).toBe(lockOf(far));
    });
  });
});

describe("what is known of a process", () => {
  const other = { ...me, host: "elsewhere" };
  it.skipIf(me.boot === undefined).each([
    [me, "alive"],
    [{ ...me, pid: endedPid }, "gone"],
    [{ ...me, started: "1" }, "gone"],
    // A host may be renamed; the boot says that it is this one.
    [other, "alive"],
    [{ ...me, boot: "another" }, "gone"],
    [{ ...other, boot: "another" }, "unknown"],
    [{ ...me, space: "pid:[1]" }, "unknown"],
  ])("%o is %s", (identity, fate) => expect(fateOf(identity)).toBe(fate));
});

describe("a staged folder", () => {
  it("is one process's at a time, removes what killed ones left, and leaves nothing but the result", async () => {
    const folder = freshFolder();
    const place = join(folder, "model");
    mkdirSync(join(folder, ".model.123456789.partial"));
    const staged = await stageFolder(place);
    expect(readdirSync(folder).filter((name) => name.endsWith(".partial"))).toEqual([
      `.model.${process.pid}.partial`,
    ]);
    await expect(stageFolder(place)).rejects.toThrow(/at work here.*name of a new folder/);
    writeFileSync(join(staged.path, "config.json"), "{}");
    await staged.publish();
    await staged.discard();
    expect(readdirSync(folder)).toEqual(["model"]);
    await expect(stageFolder(place)).rejects.toThrow("not empty");
    expect(readdirSync(folder)).toEqual(["model"]);
  });

  it("is gone when it was not published", async () => {
    const folder = freshFolder();
    const staged = await stageFolder(join(folder, "a/b"));
    await staged.discard();
    expect(readdirSync(join(folder, "a"))).toEqual([]);
  });
});

it("an output file is one process's at a time", async () => {
  const folder = freshFolder();
  const path = join(folder, "model.gguf");
  writeFileSync(join(folder, ".model.gguf.4242-00c0ffee.tmp"), "half");
  const lock = await claimOutputFile(path);
  expect(readdirSync(folder)).toEqual([`.model.gguf.lowrank-lock`]);
  await expect(claimOutputFile(path)).rejects.toThrow("give another file");
  lock.release();
  expect(existsSync(lockBeside(path))).toBe(false);
});

it("folders are made with those above them, and what cannot be made is an error at once", async () => {
  const folder = freshFolder();
  await Promise.all([1, 2, 3].map(() => makeFolder(join(folder, "a/b/c/d"))));
  expect(existsSync(join(folder, "a/b/c/d"))).toBe(true);
  writeFileSync(join(folder, "file"), "");
  await expect(makeFolder(join(folder, "file"))).rejects.toMatchObject({ code: "EEXIST" });
  await expect(makeFolder(join(folder, "file/below"))).rejects.toMatchObject({ code: "ENOTDIR" });
  if (existsSync("/proc/self"))
    await expect(makeFolder("/proc/none/below")).rejects.toMatchObject({ code: "ENOENT" });
});
