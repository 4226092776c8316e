// What is opened is a plain file: others are told by name, and nothing waits for a writer that never comes.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { openFile } from "../../src/formats/disk.ts";
import { readTokenizerFiles } from "../../src/text/load-tokenizer.node.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-disk-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe("openFile", () => {
  it("reads a file, and names what is none", async () => {
    writeFileSync(join(root, "rows"), "text");
    const file = await openFile(join(root, "rows"));
    expect(new TextDecoder().decode(await file.read(1, 3))).toBe("ext");
    await file.close();
    await expect(openFile(root)).rejects.toThrow(/expected a file, found a folder/);
    await expect(openFile(join(root, "absent"))).rejects.toThrow(/there is no such file/);
  });

  it.skipIf(process.platform === "win32")("does not wait for the writer of a named pipe", async () => {
    const model = join(root, "model");
    mkdirSync(model);
    for (const pipe of [join(root, "pipe"), join(model, "tokenizer_config.json")])
      execFileSync("mkfifo", [pipe]);
    await expect(openFile(join(root, "pipe"))).rejects.toThrow(/expected a file, found something else/);
    await expect(readTokenizerFiles(model)).rejects.toThrow(/tokenizer_config\.json: expected a file/);
  });
});
