// LOWRANK_ADDON names another build of the native engine: it is the one that is loaded, or the refusal says its name.

import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, describe, it } from "vitest";
import { expectRefusal, lowrank, succeed } from "../e2e/lowrank.ts";

const built = fileURLToPath(new URL("../../native/build/lowrank.node", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "lowrank-addon-"));
afterAll(() => rmSync(folder, { recursive: true }));
const before = process.env.LOWRANK_ADDON;
afterEach(() => {
  if (before === undefined) delete process.env.LOWRANK_ADDON;
  else process.env.LOWRANK_ADDON = before;
});

const words = [
  "generate",
  "--model",
  "tiny",
  "--backend",
  "cpu",
  "--prompt",
  "Once",
  "--max-new-tokens",
  "1",
];

describe("LOWRANK_ADDON", () => {
  it("that is not there, or no addon, is refused by name", () => {
    process.env.LOWRANK_ADDON = join(folder, "none.node");
    expectRefusal(lowrank(...words), 1, [`LOWRANK_ADDON: there is no file ${process.env.LOWRANK_ADDON}`]);
    process.env.LOWRANK_ADDON = join(folder, "text.node");
    writeFileSync(process.env.LOWRANK_ADDON, "no addon");
    expectRefusal(lowrank(...words), 1, ["the CPU backend cannot be loaded"]);
  });

  it.skipIf(!existsSync(built))("is what runs", () => {
    process.env.LOWRANK_ADDON = join(folder, "copy.node");
    copyFileSync(built, process.env.LOWRANK_ADDON);
    succeed(...words);
  });
});
