// Where measurements of kernels are kept under Node: one small JSON file in lowrank's cache folder, written whole. In a
// browser there is none. Names of Node's modules stand in variables, so that bundlers for browsers leave them alone.

import type { TuningStore } from "./tuning.ts";

/** The store of this name; undefined where there are no files. */
export async function openTuningFile(fileName: string): Promise<TuningStore | undefined> {
  if (typeof process === "undefined" || !process.versions?.node) return undefined;
  const [filesName, pathName, systemName] = ["node:fs/promises", "node:path", "node:os"];
  const { mkdir, readFile, rename, stat, writeFile } = (await import(
    /* @vite-ignore */ filesName!
  )) as typeof import("node:fs/promises");
  const { dirname, isAbsolute, join } = (await import(
    /* @vite-ignore */ pathName!
  )) as typeof import("node:path");
  const { homedir } = (await import(/* @vite-ignore */ systemName!)) as typeof import("node:os");
  // An empty variable is none, and the XDG rules say the same of a relative path.
  const { LOWRANK_CACHE, XDG_CACHE_HOME } = process.env;
  let folder: string;
  try {
    const caches = XDG_CACHE_HOME && isAbsolute(XDG_CACHE_HOME) ? XDG_CACHE_HOME : join(homedir(), ".cache");
    folder = LOWRANK_CACHE || join(caches, "lowrank");
  } catch {
    return undefined; // a user without a home
  }
  const path = join(folder, fileName);
  return {
    async read() {
      try {
        if ((await stat(path)).size > 2 ** 20) return undefined;
        return await readFile(path, "utf8");
      } catch {
        return undefined; // not there yet
      }
    },
    async write(text) {
      try {
        // Node's recursive mkdir never returns where a system refuses a folder as if what is above it were missing.
        for (const each of [dirname(folder), folder]) await mkdir(each).catch(() => {});
        const temporary = `${path}.${process.pid}`;
        await writeFile(temporary, text);
        await rename(temporary, path);
      } catch {
        // A cache that cannot be written costs a second at the next start, and nothing else.
      }
    },
  };
}
