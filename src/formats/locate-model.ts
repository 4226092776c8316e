// From what a user calls a model or a data set to a place on this disk: a path, "tiny" for the base that comes with
// lowrank, or a hub name whose files are in the cache. Fetching them is fetch-named.ts's affair, which commands do
// first; here nothing waits for a network.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { BugError, UserError } from "../util/errors.ts";
import { ggufPlace, isGgufFile } from "./gguf-place.ts";
import { hubSettings, parseHubFile, parseHubName, RepoCache } from "./hub-cache.ts";

const tinyBase = new URL("../../models/tiny-base", import.meta.url);

/** The folder of a model. UserError when there is none. */
export function locateModel(name: string): string {
  const file = locateGguf(name);
  if (file !== undefined) {
    const { folder, made } = ggufPlace(file);
    if (made) return folder;
    throw new BugError(`${name}: its folder was not made before it was used`);
  }
  if (existsSync(name)) return name;
  if (name === "tiny") {
    const folder = fileURLToPath(tinyBase);
    if (existsSync(folder)) return folder;
    throw new UserError(
      "the embedded base models/tiny-base is missing from this installation; reinstall lowrank",
    );
  }
  const repo = parseHubName(name, "model");
  const snapshot = repo && snapshotOf(new RepoCache(hubSettings(), repo));
  if (snapshot !== undefined) return snapshot;
  throw new UserError(
    `model "${name}": no such folder${repo ? ", and the hub's cache has no model of this name" : ""}. Give a folder in Hugging Face layout (config.json, *.safetensors, tokenizer.json), a GGUF file, a hub name owner/name[@revision] (with /FILE.gguf for one of its GGUF files), or "tiny" for the embedded base`,
  );
}

/** The GGUF file that a model's name is: a path, or owner/name[@revision]/FILE.gguf from the cache; else undefined. */
export function locateGguf(name: string): string | undefined {
  if (isGgufFile(name)) return name;
  const named = existsSync(name) ? undefined : parseHubFile(name);
  const snapshot = named && snapshotOf(new RepoCache(hubSettings(), named.repo));
  const path = named && snapshot !== undefined ? join(snapshot, named.path) : undefined;
  return path !== undefined && isGgufFile(path) ? path : undefined;
}

/** The files of a data set, in order: a path as it stands, or owner/name[@revision][:split] from the cache. */
export function locateData(name: string): string[] {
  if (existsSync(name)) return [name];
  const parsed = parseDataName(name);
  const snapshot = parsed && snapshotOf(new RepoCache(hubSettings(), parsed.repo));
  if (!parsed || snapshot === undefined) return [name];
  const paths = readdirSync(snapshot, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) =>
      join(entry.parentPath, entry.name)
        .slice(snapshot.length + 1)
        .replaceAll("\\", "/"),
    );
  return chooseDataFiles(name, parsed.split, paths).map((path) => join(snapshot, path));
}

/** owner/name[@revision][:split]; the split is "train" unless named. */
export function parseDataName(name: string) {
  const [repoName, split = "train", ...more] = name.split(":");
  const repo = more.length === 0 ? parseHubName(repoName ?? "", "dataset") : undefined;
  return repo && /^[\w.-]{1,100}$/.test(split) ? { repo, split } : undefined;
}

const dataEndings = [".jsonl", ".json", ".parquet", ".csv"];

/** The data files of a split in order: one, or all the parts of one. UserError when there is none, or no such order. */
export function chooseDataFiles(name: string, split: string, paths: readonly string[]): string[] {
  const files = paths.filter((path) => dataEndings.some((ending) => path.toLowerCase().endsWith(ending)));
  const words = new RegExp(`(^|[/._-])${split.replaceAll(".", "\\.")}([/._-]|$)`);
  const named = files.filter((path) => words.test(path));
  // The same rows in several forms: the first form in the list above.
  const ending = dataEndings.find((each) => named.some((path) => path.toLowerCase().endsWith(each)));
  const chosen = named.filter((path) => ending !== undefined && path.toLowerCase().endsWith(ending));
  const ordered = inOrder(chosen);
  if (ordered) return ordered;
  const found = (chosen.length > 0 ? chosen : files).slice(0, 8).join(", ") || "none";
  const problem =
    chosen.length > 0
      ? `what is there of split ${split} is not one file, nor all the numbered parts of one`
      : `no file of split ${split}`;
  throw new UserError(
    `data "${name}": ${problem}; data files there: ${found}. Fetch what you need and give its path`,
  );
}

/**
 * Files whose names differ in their last number alone, by that number; undefined for anything else. Of names that say
 * how many there are (train-00000-of-00002.parquet), all must be there.
 */
function inOrder(paths: readonly string[]): string[] | undefined {
  const parts = paths.map((path) => {
    const [, before, digits, total, after] = /^(.*?)(\d+)(?:-of-(\d+))?(\D*)$/.exec(path) ?? [];
    return { path, number: Number(digits), total, frame: `${before}#${total ?? ""}${after}` };
  });
  const { frame, total } = parts[0] ?? {};
  if (parts.length === 0) return undefined;
  if (parts.length > 1 && parts.some((part) => part.frame !== frame || Number.isNaN(part.number)))
    return undefined;
  if (total !== undefined && Number(total) !== parts.length) return undefined;
  return parts.sort((a, b) => a.number - b.number).map(({ path }) => path);
}

function snapshotOf(cache: RepoCache): string | undefined {
  const commit = cache.knownCommit();
  const folder = commit === undefined ? undefined : cache.snapshot(commit);
  return folder !== undefined && existsSync(folder) ? folder : undefined;
}
