// Which files a name of data stands for: a file, all data files of a folder, those that a pattern matches, or a split of a
// data set from the hub. Not here: what is in them (read-rows.node.ts).

import { existsSync, statSync } from "node:fs";
import { readdir, realpath } from "node:fs/promises";
import { basename, join } from "node:path";
import { glob, isDynamicPattern } from "tinyglobby";
import { locateData } from "../formats/locate-model.ts";
import { UserError } from "../util/errors.ts";
import { endingOf } from "./unpack.node.ts";

/** Endings of data files, beside which .gz and .zst may stand. */
export const dataKinds = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"];
const FILES_CAP = 10_000;

export interface FoundFile {
  readonly path: string;
  /** Begins the names of its rows. */
  readonly name: string;
}

export interface FoundFiles {
  readonly files: readonly FoundFile[];
  /** The files are the parts of one data set of this name, whose rows are numbered through. */
  readonly set?: string;
}

/** UserError where a folder or a pattern has no data file. A path that is not there is returned as it stands. */
export async function findDataFiles(given: string): Promise<FoundFiles> {
  if (!existsSync(given) && isDynamicPattern(given)) return matching(given);
  if (existsSync(given) && statSync(given).isDirectory()) return inFolder(given);
  const paths = locateData(given);
  const files = paths.map((path) => ({ path, name: basename(path) }));
  return files.length === 1 ? { files } : { files, set: given };
}

async function inFolder(folder: string): Promise<FoundFiles> {
  const names = (await readdir(folder, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile() || entry.isSymbolicLink())
    .map((entry) => join(entry.parentPath, entry.name).slice(join(folder, "x").length - 1))
    .filter((name) => isData(name) && !name.split(/[\\/]/).some((part) => part.startsWith(".")));
  if (names.length === 0)
    throw new UserError(
      `${folder}: no data file is in this folder; expected ${dataKinds.join(", ")}, also packed as .gz or .zst.`,
    );
  return { files: inOrder(names, folder).map((name) => ({ path: join(folder, name), name })) };
}

/** Patterns are written with / on every system. */
async function matching(pattern: string): Promise<FoundFiles> {
  const paths = (await glob(pattern, { onlyFiles: true, dot: false, expandDirectories: false })).filter(
    isData,
  );
  if (paths.length === 0) throw new UserError(`${pattern}: no data file matches this pattern.`);
  const names = await distinct(inOrder(paths, pattern));
  const unique = new Set(names.map((path) => basename(path))).size === names.length;
  return { files: names.map((path) => ({ path, name: unique ? basename(path) : path })) };
}

/** A file that links lead to by several paths is one file, under the first. */
async function distinct(paths: readonly string[]): Promise<string[]> {
  const seen = new Set<string>();
  const kept: string[] = [];
  for (const path of paths) {
    // What cannot be followed is told of when it is read.
    const file = await realpath(path).catch(() => path);
    if (!seen.has(file)) kept.push(path);
    seen.add(file);
  }
  return kept;
}

function isData(name: string): boolean {
  return dataKinds.includes(endingOf(name).kind);
}

/** By code units, so that the order is no locale's. */
function inOrder(names: string[], given: string): string[] {
  if (names.length > FILES_CAP)
    throw new UserError(`${given}: ${names.length} files; at most ${FILES_CAP} are read.`);
  return names.map((name) => name.replaceAll("\\", "/")).sort((a, b) => (a < b ? -1 : 1));
}
