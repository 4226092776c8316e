// The record of a resumed run: kept as far as it belongs to the run, and mended where it was removed or damaged.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { MetricsLog } from "../../src/train/metrics-log.ts";

const folder = mkdtempSync(join(tmpdir(), "lowrank-metrics-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let made = 0;

const line = (step: number) => `{"type":"train","step":${step},"loss":1}\n`;
const lines = (...steps: number[]) => steps.map(line).join("");
const bytesOf3 = lines(1, 2, 3).length;

/** Opens the log as a run does that goes on after step 3, and appends step 4. */
async function resume(content: string | Uint8Array | undefined) {
  const path = join(folder, `${++made}.jsonl`);
  if (content !== undefined) writeFileSync(path, content);
  const warnings: string[] = [];
  const log = await MetricsLog.open(path, { bytes: bytesOf3, step: 3 }, true, (warning) =>
    warnings.push(warning),
  );
  await log.append({ type: "eval", step: 4, loss: 1, perplexity: 2 });
  await log.close();
  const text = readFileSync(path, "utf8");
  expect(log.sizeBytes).toBe(Buffer.byteLength(text));
  const steps = text
    .trimEnd()
    .split("\n")
    .map((one) => JSON.parse(one).step as number);
  const aside = existsSync(`${path}.damaged`) ? readFileSync(`${path}.damaged`) : undefined;
  return { steps, warnings, aside };
}

it("cuts off what came after the checkpoint", async () => {
  expect(await resume(lines(1, 2, 3, 4, 5))).toEqual({ steps: [1, 2, 3, 4], warnings: [], aside: undefined });
  expect(await resume(`${lines(1, 2, 3)}{"type":"tr`)).toMatchObject({ steps: [1, 2, 3, 4], warnings: [] });
});

it("starts again where the file is gone, with a word", async () => {
  const { steps, warnings } = await resume(undefined);
  expect(steps).toEqual([4]);
  expect(warnings).toEqual([expect.stringMatching(/is gone.*up to step 3/)]);
});

it.each([
  ["shortened", lines(1, 2), [1, 2, 4]],
  ["emptied", "", [4]],
  ["cut within a line", lines(1, 2, 3).slice(0, -8), [1, 2, 4]],
  ["with a line of zeros", `${lines(1)}${"\0".repeat(line(2).length - 1)}\n${lines(3, 4)}`, [1, 3, 4]],
  ["with other text", lines(1, 2, 3).replace('"step":2', '"step":x'), [1, 3, 4]],
  ["with lines of another length", lines(1, 2).replaceAll("loss", "losses") + lines(3, 4), [1, 2, 3, 4]],
  ["not text", new Uint8Array([0xff, 0xfe, 0, 10, 255]), [4]],
])(
  "a file that was %s keeps the lines that can be read, and the file as it was",
  async (_, content, kept) => {
    const { steps, warnings, aside } = await resume(content);
    expect(steps).toEqual(kept);
    expect(warnings).toEqual([expect.stringMatching(/not as the run left it.*damaged/)]);
    expect(aside).toEqual(Buffer.from(content));
  },
);
