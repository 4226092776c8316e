// 500 training steps hold no more memory at the end than near the beginning: device memory to the byte, the process's
// within a bound. Steps differ in length and in number of micro-batches.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { assemble } from "../../src/data/assemble.ts";
import { Session } from "../../src/session/session.ts";
import { openGolden } from "../conformance/model-case.ts";
import { loadModelGolden } from "../golden/load-golden.ts";
import { backendName } from "./lowrank.ts";

/** A process's memory wavers by some 20 MB as heaps and arenas come and go; a leak raises even its lowest points. */
const growthBytes = 20 * 2 ** 20;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

it(`500 steps on ${backendName}`, async () => {
  const backend = await openBackend(backendName, { precision: "fp32" });
  const golden = loadModelGolden("llama-gqa-tied-llama3");
  const loaded = await openGolden(backend, golden);
  const session = new Session(loaded, {
    ...{ method: "lora", rank: 4, alpha: 8, dropout: 0.1, targets: "all-linear" },
    ...{ optimizer: "adamw", weightDecay: 0, seed: 0 },
  });
  const base = backend.liveBytes;
  const live: number[] = [];
  const outsideHeap: number[] = [];
  for (let step = 1; step <= 500; step++) {
    const batches = Array.from({ length: 3 }, (_, i) => {
      const length = 4 + ((step * 7 + i * 5) % 28);
      const ids = Int32Array.from({ length }, (_, t) => (step + i + t * 3) % 128);
      const targetMask = new Uint8Array(length).fill(1, 1);
      return assemble([{ ids, targetMask, rowId: { file: "rows", line: i + 1, unit: "line" } }]);
    });
    session.checkpointing = step % 2 === 0;
    const result = await session.trainStep(batches, { learningRate: 1e-4 });
    expect(result.updated).toBe(true);
    live.push(backend.liveBytes);
    if (step % 25 === 0) {
      collectGarbage();
      const { rss, heapTotal } = process.memoryUsage();
      outsideHeap.push(rss - heapTotal);
    }
  }
  const lowest = (from: number, to: number) => Math.min(...outsideHeap.slice(from / 25, to / 25));
  expect(lowest(350, 500) - lowest(50, 200)).toBeLessThan(growthBytes);
  expect(new Set(live.slice(1)).size, "live bytes after each step").toBe(1);
  session[Symbol.dispose]();
  loaded.free();
  expect(live[0]).toBeGreaterThanOrEqual(base);
  expect(backend.liveBytes).toBe(0);
  backend.close();
});
