// Where third-party material for tests lies, when it does: ../shared beside the repository. Tests that need it skip
// with this reason where it is absent.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const ASSETS = join(import.meta.dirname, "../../../shared/assets");
export const hasAssets = existsSync(ASSETS);
export const WITHOUT = "needs ../shared/assets, which is absent";

export const asset = (path: string) => join(ASSETS, path);
export const assetJson = (path: string): unknown => JSON.parse(readFileSync(asset(path), "utf8"));
