// What the end-to-end tests share: a model folder of formula weights with a tokenizer of bytes, rows to train on, and
// the real command in a process of its own, run from dist/. Nothing here is a test.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, expect } from "vitest";
import { loadModelGolden, writeModelFolder } from "../golden/load-golden.ts";
import { byteTokenizerFiles } from "../text/byte-tokenizer.ts";

export { backendName } from "../backend/fastest-backend.ts";

/** The compiled command. */
export const lowrankMain = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
if (!existsSync(lowrankMain))
  throw new Error("dist/ is missing: run `npm run build` first, as `npm test` does.");

/** A folder that is gone when the file's tests are over. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-e2e-"));
  process.env.LOWRANK_CACHE = join(folder, "cache");
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Writes a two-layer LLaMA whose vocabulary is bytes and <s>, </s>, <|im_end|>. */
export function writeTinyModel(folder: string): string {
  const golden = loadModelGolden("llama-mha");
  const vocabulary = 264; // 259 tokens; embeddings are often longer than the vocabulary
  const { config, configTransformers4, seed } = golden;
  const tensors = golden.tensors.map(({ name, shape }) => ({
    name,
    shape: shape[0] === config.vocab_size ? [vocabulary, ...shape.slice(1)] : shape,
  }));
  const named = { bos_token_id: 0, eos_token_id: 1, vocab_size: vocabulary };
  writeModelFolder(
    {
      seed,
      tensors,
      config: { ...config, ...named },
      configTransformers4: { ...configTransformers4, ...named },
    },
    folder,
  );
  const files = byteTokenizerFiles();
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(files.tokenizer));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(files.tokenizerConfig));
  return folder;
}

const words = "red blue green small large round old new quick slow bright dark warm cold soft hard".split(
  " ",
);

/** Rows of different lengths that a model can learn something from. */
export function makeRows(count: number): { prompt: string; completion: string }[] {
  return Array.from({ length: count }, (_, i) => {
    const word = words[i % words.length]!;
    return { prompt: `${i} ${word}:`, completion: ` ${word.repeat(1 + (i % 3))}${i % 2 ? "!" : ""}` };
  });
}

export function writeRows(path: string, rows: readonly unknown[]): string {
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return path;
}

const environment = () => ({ ...process.env, NO_COLOR: "1" });

export interface Finished {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `lowrank` to its end. */
export function lowrank(...args: readonly string[]): Finished {
  return spawnSync(process.execPath, [lowrankMain, ...args], { encoding: "utf8", env: environment() });
}

/** Starts `lowrank`; `finished` resolves when it is gone. */
export function startLowrank(args: readonly string[]): {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
} {
  const child = spawn(process.execPath, [lowrankMain, ...args], { env: environment() });
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      output[name] += text;
    });
  }
  const finished = new Promise<Finished>((resolve) => {
    child.on("close", (status, signal) => resolve({ status, signal, ...output }));
  });
  return { child, finished };
}

/** Waits until a condition holds or the process is gone. */
export async function until(condition: () => boolean, finished: Promise<unknown>): Promise<void> {
  let gone = false;
  void finished.then(() => {
    gone = true;
  });
  while (!gone && !condition()) await sleep(1);
}

/** Runs `lowrank`, which must succeed. */
export function succeed(...args: readonly string[]): Finished {
  const result = lowrank(...args);
  expect(result.status, `lowrank ${args.join(" ")}\n${result.stderr}`).toBe(0);
  return result;
}

/** What `train --json` came to: its last line. */
export function summaryIn(stdout: string): Record<string, unknown> & { steps: number; checkpoint: string } {
  return JSON.parse(stdout.trim().split("\n").at(-1)!);
}

/** Holds a result to be a refusal: its code, one message on stderr that says all of `parts`, no stack, no result. */
export function expectRefusal(result: Finished, code: number, parts: readonly (string | RegExp)[]): void {
  expect(result.status, result.stderr).toBe(code);
  expect(result.stdout).toBe("");
  const errors = result.stderr.split("\n").filter((line) => line.startsWith("error: "));
  expect(errors, result.stderr).toHaveLength(1);
  expect(result.stderr).not.toMatch(/\n\s+at /);
  for (const part of parts) {
    if (typeof part === "string") expect(errors[0]).toContain(part);
    else expect(errors[0]).toMatch(part);
  }
}

/** Content of files in a run folder, for comparing two runs byte for byte. */
export function filesOf(out: string, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(out, name)).toString("base64")]));
}

/** What two equal runs of adapters share byte for byte. */
export const resultOf = (out: string) =>
  filesOf(out, ["metrics.jsonl", "adapter_model.safetensors", "adapter_config.json"]);
