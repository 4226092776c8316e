// What is asked of a run by a file in its folder: heard by the one that holds the lock, once, and by nobody later.

import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, expect, it } from "vitest";
import { FOLDER_LOCK, holderAt, isLockName, lockPlace } from "../../src/formats/place-lock.ts";
import { askRun, forgetRequests, hearRequests, type RunRequest } from "../../src/train/run-requests.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-requests-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, FOLDER_LOCK);
const file = join(folder, ".lowrank-lock.ask");
const place = { place: "here", instead: "elsewhere" };

it("is heard once by the holder that it names, and refused where nobody listens", async () => {
  await expect(askRun(folder, "pause")).rejects.toThrow(/no run is at work here/);
  const deaf = await lockPlace(path, place);
  expect(await holderAt(path)).toMatchObject({ pid: process.pid, takesRequests: false, isHere: true });
  await expect(askRun(folder, "pause")).rejects.toThrow(/does not listen/);
  deaf.release();
  expect(await holderAt(path)).toBeUndefined();

  const lock = await lockPlace(path, { ...place, takesRequests: true });
  const heard: RunRequest[] = [];
  const stop = hearRequests(folder, lock.nonce, (request) => heard.push(request), 5);
  for (const request of ["pause", "end"] as const) {
    await askRun(folder, request);
    while (heard.at(-1) !== request) await sleep(5);
    expect(existsSync(file)).toBe(false);
  }
  // What was meant for another holder, and what is no request, is taken away and not heard.
  for (const text of [
    '{"request":"pause","of":"other"}',
    '{"request":"stop"}',
    "{",
    "x".repeat(5000),
    "null",
  ]) {
    writeFileSync(file, text);
    while (existsSync(file)) await sleep(5);
  }
  await sleep(20);
  expect(heard).toEqual(["pause", "end"]);
  stop();
  await askRun(folder, "pause");
  expect(isLockName(".lowrank-lock.ask")).toBe(true);
  await forgetRequests(folder);
  expect(existsSync(file)).toBe(false);
  lock.release();
});
