// From what a user calls a model or a data set to a place on this disk: a path, "tiny" for the base that comes with
// lowrank, or a hub name whose files are in the cache. Fetching them is fetch-named.ts's affair, which commands do
// first; here nothing waits for a network.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../util/errors.ts";
import { hubSettings, parseHubName, RepoCache } from "./hub-cache.ts";

const tinyBase = new URL("../../models/tiny-base", import.meta.url);

/** The folder of a model. UserError when there is none. */
export function locateModel(name: string): string {
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
    `model "${name}": no such folder${repo ? ", and the hub's cache has no model of this name" : ""}. Give a folder in Hugging Face layout (config.json, *.safetensors, tokenizer.json), a hub name owner/name[@revision], or "tiny" for the embedded base`,
  );
}

/** The file of a data set: a path as it stands, or owner/name[@revision][:split] from the cache. */
export function locateData(name: string): string {
  if (existsSync(name)) return name;
  const parsed = parseDataName(name);
  const snapshot = parsed && snapshotOf(new RepoCache(hubSettings(), parsed.repo));
  if (!parsed || snapshot === undefined) return name;
  const paths = readdirSync(snapshot, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) =>
      join(entry.parentPath, entry.name)
        .slice(snapshot.length + 1)
        .replaceAll("\\", "/"),
    );
  return join(snapshot, chooseDataFile(name, parsed.split, paths));
}

/** owner/name[@revision][:split]; the split is "train" unless named. */
export function parseDataName(name: string) {
  const [repoName, split = "train", ...more] = name.split(":");
  const repo = more.length === 0 ? parseHubName(repoName ?? "", "dataset") : undefined;
  return repo && /^[\w.-]{1,100}$/.test(split) ? { repo, split } : undefined;
}

const dataEndings = [".jsonl", ".json", ".parquet", ".csv"];

/** The one data file of a split. UserError when there is none, or several. */
export function chooseDataFile(name: string, split: string, paths: readonly string[]): string {
  const files = paths.filter((path) => dataEndings.some((ending) => path.toLowerCase().endsWith(ending)));
  const words = new RegExp(`(^|[/._-])${split.replaceAll(".", "\\.")}([/._-]|$)`);
  const named = files.filter((path) => words.test(path));
  // The same rows in several forms: the first form in the list above.
  const ending = dataEndings.find((each) => named.some((path) => path.toLowerCase().endsWith(each)));
  const chosen = named.filter((path) => ending !== undefined && path.toLowerCase().endsWith(ending));
  if (chosen.length === 1) return chosen[0]!;
  const found = (chosen.length > 1 ? chosen : files).slice(0, 8).join(", ") || "none";
  throw new UserError(
    `data "${name}": ${chosen.length > 1 ? `split ${split} lies in ${chosen.length} files, and one is read` : `no file of split ${split}`}; data files there: ${found}. Fetch what you need and give its path`,
  );
}

function snapshotOf(cache: RepoCache): string | undefined {
  const commit = cache.knownCommit();
  const folder = commit === undefined ? undefined : cache.snapshot(commit);
  return folder !== undefined && existsSync(folder) ? folder : undefined;
}
