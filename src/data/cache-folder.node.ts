// Where tokenised data is kept between runs. What is kept: sample-cache.ts.

import { join } from "node:path";
import { cacheFolder } from "../formats/cache-folder.ts";
import type { DatasetOptions } from "./dataset.node.ts";

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
