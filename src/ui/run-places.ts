// Which folders are a run's or a comparison's, below the folder that is shown, and where an id of a request lies. Ids are
// what strangers may have written: they name plain folders below it, and nothing that a link leads out of it. What runs
// come to is run-view.ts's.

import { lstat, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { isLockName } from "../formats/place-lock.ts";
import { RequestError } from "../serve/request-error.ts";

export interface FoundFolders {
  /** Ids, in no order. */
  readonly runs: readonly string[];
  readonly compares: readonly string[];
  /** There are more than are looked at. */
  readonly truncated: boolean;
}

/** The id of the folder itself. */
export const ROOT_ID = ".";

const mostRuns = 2000;
const mostFolders = 5000;
const mostEntries = 10_000;
const deepest = 4;
const longestId = 400;

/** Looks through the folders below `root`, links not followed. What cannot be read is passed over. */
export async function findRuns(root: string): Promise<FoundFolders> {
  const runs: string[] = [];
  const compares: string[] = [];
  const waiting: { id: string; depth: number }[] = [{ id: ROOT_ID, depth: 0 }];
  let seen = 0;
  let truncated = false;
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    const { id, depth } = next;
    if (seen++ >= mostFolders || runs.length >= mostRuns) {
      truncated = true;
      break;
    }
    const entries = await readdir(join(root, id), { withFileTypes: true }).catch(() => []);
    const names = new Set(entries.slice(0, mostEntries).map(({ name }) => name));
    const isCompare = names.has("compare.json");
    if (isCompare) compares.push(id);
    else if (isRunFolder(names)) {
      runs.push(id);
      continue;
    }
    for (const entry of entries.slice(0, mostEntries)) {
      if (!entry.isDirectory() || entry.name.startsWith(".") || entry.name === "node_modules") continue;
      const below = id === ROOT_ID ? entry.name : `${id}/${entry.name}`;
      if (!isId(below)) continue;
      if (depth < deepest) waiting.push({ id: below, depth: depth + 1 });
      else truncated = true;
    }
  }
  return { runs, compares, truncated };
}

function isRunFolder(names: ReadonlySet<string>): boolean {
  if (names.has("metrics.jsonl") && (names.has("run.json") || names.has("checkpoints"))) return true;
  // A merged or an exported model has a receipt of its own, and no run.json.
  return names.has("run.json") || [...names].some(isLockName);
}

/** Whether a text could be an id: plain names joined by "/", or the folder itself. */
export function isId(text: string): boolean {
  if (text === ROOT_ID) return true;
  if (text.length === 0 || text.length > longestId) return false;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: names with such are refused
  return text.split("/").every((part) => !/^\.|[\\:\u0000-\u001f]|[. ]$|^$/.test(part));
}

/** The folder of an id, every part of which is a folder and no link. RequestError (404) where there is none. */
export async function folderOf(root: string, id: string): Promise<string> {
  const unknown = new RequestError(`there is no run "${id.slice(0, 100)}" here`, null, 404, "not_found");
  if (!isId(id)) throw unknown;
  if (id === ROOT_ID) return root;
  let path = root;
  for (const part of id.split("/")) {
    path = join(path, part);
    const found = await lstat(path).catch(() => undefined);
    if (!found?.isDirectory()) throw unknown;
  }
  return path;
}

const names = /^[\p{L}\p{N}_][\p{L}\p{N}_ .+-]{0,79}$/u;

/** Where a new run of this id would lie. RequestError where the name or a folder on the way does not do. */
export async function newFolderOf(root: string, id: string): Promise<string> {
  const parts = id.split("/");
  const plain = parts.length <= deepest && isId(id) && parts.every((part) => names.test(part));
  if (!plain || parts.some((part) => /^(checkpoints|node_modules)$/i.test(part))) {
    throw new RequestError(
      `"${id.slice(0, 100)}" cannot name a run: expected letters, digits, spaces, dots, dashes and underscores, folders joined by "/"`,
      "out",
    );
  }
  let path = resolve(root);
  for (const [i, part] of parts.entries()) {
    path = join(path, part);
    const found = await lstat(path).catch(() => undefined);
    if (!found) continue;
    if (!found.isDirectory())
      throw new RequestError(`${id}: there is something else in its place`, "out", 409);
    const entries = await readdir(path).catch(() => [] as string[]);
    const own = entries.filter((name) => !isLockName(name));
    if (i < parts.length - 1 && isRunFolder(new Set(entries)))
      throw new RequestError(`${id}: ${parts.slice(0, i + 1).join("/")} is a run itself`, "out", 409);
    if (i === parts.length - 1 && own.length > 0)
      throw new RequestError(`${id}: the folder is not empty; choose another name`, "out", 409);
  }
  return path;
}
