// Where lowrank keeps what saves time: tokenised data, what was made of GGUF files' metadata.

import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";

/**
 * LOWRANK_CACHE, or lowrank's folder in the user's cache; undefined for a user
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
