// Where tokenised data is kept between runs. What is kept: sample-cache.ts.

import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import type { DatasetOptions } from "./dataset.node.ts";

/**
 * Where tokenised data is kept between runs: LOWRANK_CACHE, or lowrank's folder in the user's cache; undefined for a user
 * without a home. An empty variable is none, and the XDG rules say the same of a relative path.
 */
export function cacheFolder(): string | undefined {
  const { LOWRANK_CACHE, XDG_CACHE_HOME } = process.env;
  if (LOWRANK_CACHE) return LOWRANK_CACHE;
  if (XDG_CACHE_HOME && isAbsolute(XDG_CACHE_HOME)) return join(XDG_CACHE_HOME, "lowrank");
  try {
    return join(homedir(), ".cache", "lowrank");
  } catch {
    return undefined;
  }
}

/** The cache saves time and nothing else: what is wrong with it is told, and the data is made anew. */
export function sampleCache(
  warn?: (message: string) => void,
): Pick<DatasetOptions, "cacheFolder" | "onCacheProblem"> {
  const folder = cacheFolder();
  if (folder === undefined) return {};
  const onCacheProblem = (problem: string) =>
    warn?.(`tokenised data is not kept for the next run: ${problem}`);
  return { cacheFolder: join(folder, "samples"), onCacheProblem };
}
