// Help of every command within 80 columns, lowrank alone, and completions: bash's by calling its function, zsh's and
// fish's by their own parsers where these shells are installed.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { commands } from "../../src/cli/commands.ts";
import { formatExample, HELP_COLUMNS } from "../../src/cli/help-text.ts";
import { flagName } from "../../src/config/resolve.ts";
import { lowrank } from "../e2e/lowrank.ts";

const names = Object.keys(commands);

describe("help", () => {
  it.each(names)("of lowrank %s fits in 80 columns and names every flag", async (name) => {
    const { stdout, status } = lowrank(name, "--help");
    expect(status).toBe(0);
    const tooLong = stdout.split("\n").filter((line) => line.length > HELP_COLUMNS);
    expect(tooLong).toEqual([]);
    const { definition } = (await commands[name]!.load()).command;
    const flat = stdout.replace(/\s+/g, " ");
    for (const [key, field] of Object.entries(definition?.fields ?? {})) {
      const flag = field.defaultOn ? flagName(key).replace("--", "--no-") : flagName(key);
      expect(flat).toContain(flag);
      expect(flat).toContain(field.description);
    }
  });

  it("is what lowrank alone prints", () => {
    const alone = lowrank();
    expect(alone.status).toBe(0);
    expect(alone.stdout).toBe(lowrank("--help").stdout);
    for (const name of names) expect(alone.stdout).toContain(`  ${name}`);
    for (const line of alone.stdout.split("\n")) expect(line.length).toBeLessThanOrEqual(HELP_COLUMNS);
  });

  it("breaks a long example where a shell would go on", () => {
    const words = `lowrank compare ${"--flag value ".repeat(12)}`.trim();
    const shown = formatExample(words);
    for (const line of shown.split("\n")) expect(line.length).toBeLessThanOrEqual(HELP_COLUMNS);
    expect(shown.replaceAll(/ \\\n */g, " ").trim()).toBe(words);
    expect(
      shown
        .split("\n")
        .slice(1)
        .every((line) => line.trim().startsWith("--")),
    ).toBe(true);
  });
});

describe("completion", () => {
  let folder: string;
  const scripts: Record<string, string> = {};
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "lowrank-completion-"));
    for (const shell of ["bash", "zsh", "fish"]) {
      const { stdout, status } = lowrank("completion", shell);
      expect(status).toBe(0);
      scripts[shell] = join(folder, shell);
      writeFileSync(scripts[shell], stdout);
    }
    writeFileSync(join(folder, "train.yaml"), "");
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  /** What bash offers after these words, the last of them begun. */
  function offered(...words: string[]): string[] {
    const line = words.map((word) => `'${word}'`).join(" ");
    const program = `source '${scripts.bash}'; COMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}; _lowrank; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const run = spawnSync("bash", ["--norc", "-c", program], { encoding: "utf8", cwd: folder });
    expect(run.stderr).toBe("");
    return run.stdout.split("\n").filter((word) => word !== "");
  }

  it("offers commands, flags, values and files in bash", () => {
    expect(offered("lowrank", "")).toEqual(expect.arrayContaining(names));
    expect(offered("lowrank", "qu")).toEqual(["quantize"]);
    expect(offered("lowrank", "train", "--lear")).toEqual(["--learning-rate"]);
    expect(offered("lowrank", "train", "--method", "")).toEqual(["lora", "qlora", "full"]);
    expect(offered("lowrank", "train", "--method", "=", "q")).toEqual(["qlora"]);
    expect(offered("lowrank", "train", "--method", "=")).toEqual(["lora", "qlora", "full"]);
    expect(offered("lowrank", "train", "--no-sh")).toEqual(["--no-shuffle"]);
    expect(offered("lowrank", "train", "tr")).toEqual(["train.yaml"]);
    expect(offered("lowrank", "generate", "--model", "t")).toEqual(["tiny", "train.yaml"]);
    expect(offered("lowrank", "completion", "")).toEqual(["--help", "bash", "zsh", "fish"]);
  });

  it("knows every flag of every command", async () => {
    for (const name of names) {
      const { definition } = (await commands[name]!.load()).command;
      const flags = Object.entries(definition?.fields ?? {}).map(([key, field]) =>
        field.defaultOn ? flagName(key).replace("--", "--no-") : flagName(key),
      );
      expect(offered("lowrank", name, "--")).toEqual(expect.arrayContaining(flags));
    }
  });

  for (const shell of ["zsh", "fish"]) {
    const installed = spawnSync(shell, ["--version"]).status === 0;
    it.skipIf(!installed)(`is a script that ${shell} reads${installed ? "" : " (not installed)"}`, () => {
      const { status, stderr } = spawnSync(shell, ["-n", scripts[shell]!], { encoding: "utf8" });
      expect(stderr).toBe("");
      expect(status).toBe(0);
    });
  }

  it("refuses a shell that it does not know", () => {
    const { status, stderr } = lowrank("completion", "bush");
    expect(status).toBe(2);
    expect(stderr).toContain("Did you mean bash?");
  });
});
