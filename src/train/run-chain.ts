// A run's part of the chain (publish/chain.ts): what it was made of, noted when it starts and hashed when it has ended, so
// that no start waits for a large base to be read. A source that changed in between has no hash, and is told of. A base
// that lowrank has hashed before is not read again (formats/file-hashes.ts).

import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { rewardSpecs } from "../config/rollout-fields.ts";
import type { TrainOptions } from "../config/train-options.ts";
import { findDataFiles } from "../data/data-files.node.ts";
import { type DataChoice, sourcesOf } from "../data/data-source.ts";
import { rowsNamed } from "../data/memory-rows.ts";
import { stampOf } from "../formats/file-hashes.ts";
import { sideFilesIn } from "../formats/side-files.ts";
import { adapterFiles, type Chain, type ChainPart, modelFiles, partOf, sha256 } from "../publish/chain.ts";
import { listCheckpoints, SUMS_FILE } from "./checkpoint.ts";
import type { RunIdentity } from "./run-identity.ts";
import type { TrainableModel } from "./setup.ts";

interface NotedSource {
  readonly role: string;
  readonly path: string;
  readonly folder: string;
  readonly names: readonly string[];
  /** By name, what tells that a file is still the same. */
  readonly stamps: ReadonlyMap<string, string>;
}

export interface NotedSources {
  readonly files: readonly NotedSource[];
  /** Rows that were given as objects. */
  readonly inMemory: readonly ChainPart[];
}

/** What the run reads, before its first step. */
export async function noteSources(options: TrainOptions, { model }: TrainableModel): Promise<NotedSources> {
  const files: NotedSource[] = [];
  const inMemory: ChainPart[] = [];
  const note = async (role: string, path: string, folder: string, names: readonly string[]) => {
    const stamps = new Map<string, string>();
    // What is missing is for those to say who read it.
    for (const name of names) stamps.set(name, await stampOf(join(folder, name)).catch(() => "absent"));
    files.push({ role, path, folder, names, stamps });
  };
  const own = await modelFiles(model.folder);
  await note("model", options.model, own.folder, own.names);
  const data = async (role: string, choice: DataChoice) => {
    for (const { path, chatTemplate } of sourcesOf(choice)) {
      if (chatTemplate !== undefined) await text("template", chatTemplate);
      const rows = rowsNamed(path);
      if (rows) {
        const hash = createHash("sha256").update(rows).digest("hex");
        inMemory.push({ role, path, files: [{ name: "rows", bytes: rows.length, sha256: hash }] });
        continue;
      }
      const folders = new Map<string, string[]>();
      const { files: found } = await findDataFiles(path).catch(() => ({ files: [] }));
      for (const each of found)
        folders.set(dirname(each.path), [...(folders.get(dirname(each.path)) ?? []), basename(each.path)]);
      for (const [folder, names] of folders) await note(role, folder, folder, names);
    }
  };
  /** A file, where the option names one and not a built-in thing. */
  const text = async (role: string, path: string) => {
    const status = await stat(path).catch(() => undefined);
    if (status?.isFile()) await note(role, dirname(path), dirname(path), [basename(path)]);
  };
  await data("data", options.data);
  if (options.evalData !== undefined) await data("eval-data", options.evalData);
  if (options.forget !== undefined) await data("forget", options.forget);
  const { initAdapter, addTokens, chatTemplate, reward } = options;
  if (initAdapter !== undefined)
    await note("adapter", initAdapter, initAdapter, await adapterFiles(initAdapter).catch(() => []));
  if (addTokens !== undefined) await text("added-tokens", addTokens);
  if (chatTemplate !== undefined) await text("template", chatTemplate);
  for (const { path } of reward ? rewardSpecs(reward) : []) await text("reward", path);
  return { files, inMemory };
}

/** The chain of a run that is done. `warn` hears of sources that changed meanwhile. */
export async function chainOfRun(
  { out, method }: TrainOptions,
  identity: RunIdentity,
  noted: NotedSources,
  warn: (message: string) => void,
): Promise<Omit<Chain, "version" | "self">> {
  const sources: ChainPart[] = [...noted.inMemory];
  for (const { role, path, folder, names, stamps } of noted.files) {
    const same: string[] = [];
    for (const name of names) {
      const now = await stampOf(join(folder, name)).catch(() => "absent");
      if (now === stamps.get(name)) same.push(name);
      else
        warn(
          `${join(folder, name)} changed while the run trained on it: run.json has no hash of it, and \`lowrank verify\` will say so`,
        );
    }
    const part = await partOf(role, path, folder, same);
    const changed = names.filter((name) => !same.includes(name));
    const unknown = changed.map((name) => ({ name, bytes: 0, sha256: "changed" }));
    sources.push({ ...part, files: [...part.files, ...unknown] });
  }
  const result = method === "full" ? await wholeModel(out) : await adapterFiles(out);
  const outputs = [await partOf("result", ".", out, [...result, "metrics.jsonl"], true)];
  for (const step of await listCheckpoints(out)) {
    const folder = `checkpoints/step-${step}`;
    const sums = await stat(join(out, folder, SUMS_FILE)).catch(() => undefined);
    if (sums) outputs.push(await partOf("checkpoint", folder, join(out, folder), [SUMS_FILE], true));
  }
  return { made: "train", sources, outputs, recipe: recipeHash(identity) };
}

/** Of what decides the run; the number of steps may grow while it stays the same one. */
export function recipeHash(identity: Readonly<Record<string, unknown>>): string {
  const { totalSteps: _, ...rest } = JSON.parse(JSON.stringify(identity)) as Record<string, unknown>;
  return sha256(JSON.stringify(Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1))));
}

async function wholeModel(folder: string): Promise<string[]> {
  const weights = (await readdir(folder)).filter((name) =>
    /^(model.*\.safetensors(\.index\.json)?)$/.test(name),
  );
  return ["config.json", ...weights.sort(), ...(await sideFilesIn(folder))];
}
