// Fetches what a command's options name on the hub before the command runs: models (config, weights, tokenizer) and
// data sets (one split's files). Afterwards locate-model.ts finds them in the cache. Names that are paths cost nothing.

import { existsSync } from "node:fs";
import { UserError } from "../util/errors.ts";
import { ggufPartName } from "./gguf-parts.ts";
import { fetchSnapshot, type HubHooks } from "./hub.ts";
import { hubSettings, parseHubFile, parseHubName } from "./hub-cache.ts";
import { chooseDataFiles, parseDataName } from "./locate-model.ts";
import { TOKENIZER_FILES } from "./side-files.ts";

/** `what` "config" leaves the weights where they are. */
export async function fetchModel(name: string, what: "all" | "config", hooks: HubHooks = {}): Promise<void> {
  const file = existsSync(name) ? undefined : parseHubFile(name);
  if (file) {
    await fetchSnapshot(hubSettings(), file.repo, (paths) => theFile(name, file.path, paths), hooks);
    return;
  }
  const repo = existsSync(name) || name === "tiny" ? undefined : parseHubName(name, "model");
  if (!repo) return;
  await fetchSnapshot(hubSettings(), repo, (paths) => modelFiles(paths, what), hooks);
}

export async function fetchData(name: string, hooks: HubHooks = {}): Promise<void> {
  const parsed = existsSync(name) ? undefined : parseDataName(name);
  if (!parsed) return;
  await fetchSnapshot(
    hubSettings(),
    parsed.repo,
    (paths) => chooseDataFiles(name, parsed.split, paths),
    hooks,
  );
}

const smallFiles = new Set([
  "config.json",
  "generation_config.json",
  ...TOKENIZER_FILES,
  "chat_template.jinja",
  "chat_template.json",
  "adapter_config.json",
  "adapter_model.safetensors",
]);

/** A file; with the first of several parts of a model the others. */
function theFile(name: string, path: string, paths: readonly string[]): string[] {
  const { part = 1, all = [path] } = ggufPartName(path) ?? {};
  if (part !== 1 && paths.includes(path))
    throw new UserError(`model "${name}": it is one of ${all.length} parts; give the first, ${all[0]}`);
  const missing = all.filter((each) => !paths.includes(each));
  if (missing.length === 0) return [...all];
  const others = paths.filter((each) => /\.gguf$/i.test(each)).slice(0, 8);
  throw new UserError(
    `model "${name}": the repository has no ${missing.slice(0, 3).join(", ")}; GGUF files there: ${others.join(", ") || "none"}`,
  );
}

/** Of a model's files, those that a model folder is made of; copies in other formats stay away. */
function modelFiles(paths: readonly string[], what: "all" | "config"): string[] {
  const small = paths.filter((path) => smallFiles.has(path));
  if (what === "config") return small.filter((path) => path !== "adapter_model.safetensors");
  const single = paths.includes("model.safetensors");
  const weights = paths.filter((path) =>
    single
      ? path === "model.safetensors"
      : /^[^/]+\.safetensors(\.index\.json)?$/.test(path) &&
        !/^consolidated/.test(path) &&
        !smallFiles.has(path),
  );
  return [...small, ...weights];
}
