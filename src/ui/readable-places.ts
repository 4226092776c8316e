// The folders that a page may name files in: the one whose runs are shown, the one that the command was run in, and those
// given with --read. What is no path that exists (a name on the hub, of a template, "tiny") is the command's own affair,
// as long as it leads nowhere else when it comes to exist. Where runs lie: run-places.ts.

import { existsSync } from "node:fs";
import { realpath } from "node:fs/promises";
import { dirname, isAbsolute, relative, resolve, sep } from "node:path";
import { isDynamicPattern } from "tinyglobby";
import { findDataFiles } from "../data/data-files.node.ts";
import { RequestError } from "../serve/request-error.ts";

export class ReadablePlaces {
  constructor(private readonly folders: readonly string[]) {}

  /** RequestError (403), naming the option, where a path lies elsewhere, or leads elsewhere by a link. */
  async require(path: string, key: string): Promise<void> {
    // Of a pattern, the folder before its first sign.
    const sign = path.search(/[*?[{(!+@]/);
    const fixed =
      sign < 0 ? path : path.slice(0, Math.max(path.lastIndexOf("/", sign), path.lastIndexOf(sep, sign)) + 1);
    const full = resolve(fixed === "" ? "." : fixed);
    const turnsBack = sign >= 0 && path.slice(sign).split(/[\\/]/).includes("..");
    if (turnsBack || !(await this.holds(full))) throw outside(path, key);
  }

  /** The same of data: of a folder or a pattern, of every file that it stands for. */
  async requireData(path: string, key: string): Promise<void> {
    await this.require(path, key);
    const { files } = await findDataFiles(path);
    const [only] = files;
    // A file alone is the one just looked at; a name on the hub lies in its cache.
    if (files.length === 1 && only!.path === path) return;
    if (!existsSync(path) && !isDynamicPattern(path)) return;
    for (const file of files) if (!(await this.holds(resolve(file.path)))) throw outside(file.path, key);
  }

  private async holds(path: string): Promise<boolean> {
    const real = await realOf(path);
    for (const folder of this.folders) {
      const base = await realpath(folder).catch(() => resolve(folder));
      if (isWithin(real, base)) return true;
    }
    return false;
  }
}

function outside(path: string, key: string): RequestError {
  // Whether something lies there is not told: models and adapters are folders by their kind.
  const isFolder = (key === "model" || key === "initAdapter") && !/\.gguf$/i.test(path);
  const flag = `--read ${isAbsolute(path) ? (isFolder ? path : dirname(path)) : "FOLDER"}`;
  return new RequestError(
    `${key}: "${path.slice(0, 200)}" lies outside the folders that this page may read; start \`lowrank ui\` with ${flag}, or where the file is`,
    key,
    403,
  );
}

/** With links followed as far as there is something. */
async function realOf(path: string): Promise<string> {
  const found = await realpath(path).catch(() => undefined);
  if (found !== undefined) return found;
  const above = dirname(path);
  if (above === path) return path;
  return resolve(await realOf(above), relative(above, path));
}

function isWithin(path: string, folder: string): boolean {
  const way = relative(folder, path);
  return way === "" || (way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way));
}
