// The threads that prepare requests, with a stand-in for what they do: what takes too long is ended alone, long texts keep
// no short one waiting, and who has gone is not waited for.

import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import type { Preparers } from "../../src/serve/preparers.ts";
import { scratchFolder } from "../publish/tiny-model.ts";

const module = new URL("../../dist/serve/preparers.js", import.meta.url);
if (!existsSync(module)) throw new Error("dist/ is missing: run `npm run build` first, as `npm test` does.");
const { Preparers: Threads } = (await import(module.href)) as typeof import("../../src/serve/preparers.ts");

const root = scratchFolder();
const standIn = join(root, "preparer.mjs");
// Says what it was told: the body's first word is what it does.
writeFileSync(
  standIn,
  `import { parentPort, workerData, threadId } from "node:worker_threads";
  const known = new Set(workerData.lowrankPreparer.adapters.map(({ name }) => name));
  const done = (answer) => parentPort.postMessage({ kind: "done", answer });
  parentPort.on("message", (message) => {
    if (message.kind === "known") known.add(message.adapter.name);
    else if (message.kind === "forgotten") known.delete(message.name);
    else {
      const word = Buffer.from(message.body).toString().trim();
      const told = { prompts: [], settings: { thread: threadId, known: [...known].sort(), word } };
      if (word === "never") for (;;);
      if (word === "wait") setTimeout(() => done({ ...told, gone: Atomics.load(message.gone, 0) }), 150);
      else if (word === "fall") process.exit(7);
      else if (word === "wrong") parentPort.postMessage({ kind: "failed", error: { name: "RequestError", message: "no", details: ["p", 404, "c"] } });
      else done(told);
    }
  });
  parentPort.postMessage({ kind: "ready", facts: { hasChatTemplate: true } });`,
);

let preparers: Preparers;
afterEach(() => preparers.close());
const start = async (deadlineMs = 60_000) => {
  const started = await Threads.start({
    model: "unused",
    modelName: "base",
    preparer: pathToFileURL(standIn).href,
    deadlineMs,
  });
  ({ preparers } = started);
  expect(started.facts).toEqual({ hasChatTemplate: true });
};
const ask = async (word: string, size = 0, signal = new AbortController().signal) => {
  const prepared = await preparers.prepare(
    "chat",
    new TextEncoder().encode(word.padEnd(size)),
    { context: 1, maxTokens: 1 },
    signal,
  );
  return prepared.settings as unknown as { thread: number; known: string[]; word: string };
};
const large = 100_000;

describe("preparing threads", () => {
  it("end what takes too long, and only that", async () => {
    await start(300);
    const first = await ask("a");
    const [never, behind] = await Promise.allSettled([ask("never", large), ask("b", large)]);
    expect(never).toMatchObject({ status: "rejected", reason: { status: 400, code: "too_slow" } });
    // The next one gets a new thread.
    expect(behind.status).toBe("fulfilled");
    expect((await ask("c", large)).thread).not.toBe(first.thread);
  });

  it("let short requests pass long ones", async () => {
    await start();
    let ended = false;
    void ask("never", large).catch(() => {
      ended = true;
    });
    await Promise.all([ask("a"), ask("b"), ask("c")]);
    expect(ended).toBe(false);
  });

  it("bring errors over as what they were, and outlive a thread that ends", async () => {
    await start();
    await expect(ask("wrong")).rejects.toMatchObject({ message: "no", param: "p", status: 404, code: "c" });
    await expect(ask("fall")).rejects.toThrow(/code 7/);
    expect((await ask("a")).word).toBe("a");
  });

  it("leave who has gone: before, in the queue, and at work", async () => {
    await start();
    const reason = new Error("gone");
    await expect(ask("a", 0, AbortSignal.abort(reason))).rejects.toBe(reason);
    const [working, queued] = [new AbortController(), new AbortController()];
    const attempts = [ask("wait", large, working.signal), ask("b", large, queued.signal)];
    const last = ask("c", large);
    queued.abort(reason);
    working.abort(reason);
    for (const attempt of attempts) await expect(attempt).rejects.toBe(reason);
    expect((await last).word).toBe("c");
  });

  it("know the adapters that were loaded, new threads too", async () => {
    await start(300);
    preparers.learn("red", "/red");
    preparers.learn("blue", "/blue");
    preparers.forget("red");
    expect((await ask("a", large)).known).toEqual(["blue"]);
    await expect(ask("never", large)).rejects.toMatchObject({ code: "too_slow" });
    preparers.learn("green", "/green");
    expect((await ask("a", large)).known).toEqual(["blue", "green"]);
  });
});
