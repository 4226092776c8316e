// Where tokenised data is kept, by what the environment says.

import { homedir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, it, vi } from "vitest";
import { cacheFolder } from "../../src/formats/cache-folder.ts";

afterEach(() => void vi.unstubAllEnvs());

const usual = join(homedir(), ".cache", "lowrank");

it.each([
  [{ LOWRANK_CACHE: "/caches/mine", XDG_CACHE_HOME: "/caches/all" }, "/caches/mine"],
  [{ LOWRANK_CACHE: "", XDG_CACHE_HOME: "/caches/all" }, "/caches/all/lowrank"],
  [{ LOWRANK_CACHE: undefined, XDG_CACHE_HOME: "" }, usual],
  [{ LOWRANK_CACHE: "", XDG_CACHE_HOME: "beside/me" }, usual],
  [{ LOWRANK_CACHE: undefined, XDG_CACHE_HOME: undefined }, usual],
])("%o: %s", (environment, folder) => {
  for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value);
  expect(cacheFolder()).toBe(folder);
});
