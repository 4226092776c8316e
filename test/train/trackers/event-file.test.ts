// Records of event files, byte for byte those of TensorBoard's own protocol buffers (tools/golden/tensorboard_events.py).

import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import {
  recipeRecord,
  restartRecord,
  scalarsRecord,
  textRecord,
  versionRecord,
} from "../../../src/train/trackers/event-file.ts";

const golden: Record<string, string> = JSON.parse(
  readFileSync(new URL("../../golden/tensorboard-events.json", import.meta.url), "utf8"),
);
const seconds = 1700000000.25;

it.each([
  ["version", versionRecord(seconds, 0)],
  ["restart", restartRecord(seconds, 300)],
  ["scalars", scalarsRecord(seconds, 2 ** 40 + 5, { "train/loss": 0.1, "train/gradNorm": 0 })],
  ["text", textRecord(seconds, 7, "sample", "**p**\n\nä")],
  ["recipe", recipeRecord(seconds, "a run", { count: 0, model: "größe", yes: false })],
])("%s", (name, record) => {
  expect(Buffer.from(record).toString("base64")).toBe(golden[name]);
});
