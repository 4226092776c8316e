// Fetches from the hub what a command's options name, before the command runs, with progress on the screen. What is
// fetched, and where to, is formats/fetch-named.ts.

import { fetchData, fetchModel } from "../formats/fetch-named.ts";
import type { HubHooks } from "../formats/hub.ts";
import { formatBytes } from "./format.ts";
import type { Terminal } from "./terminal.ts";

/** Options of every command that name a model or rows of data. */
const modelKeys = ["model", "base", "tuned"];
const dataKeys = ["data", "evalData", "sampleData"];

/** Commands that read a model's configuration alone. */
const configOnly = new Set(["plan"]);

export async function fetchOptions(
  command: string,
  options: Readonly<Record<string, unknown>>,
  terminal: Terminal,
): Promise<void> {
  const hooks: HubHooks = {
    warn: terminal.warn,
    note: terminal.note,
    progress: (path, done, total) =>
      terminal.status(`${path}: ${formatBytes(done)}${total > 0 ? ` of ${formatBytes(total)}` : ""}`),
  };
  const named = (keys: readonly string[]) =>
    keys.map((key) => options[key]).filter((value) => typeof value === "string");
  try {
    for (const name of named(modelKeys))
      await fetchModel(name, configOnly.has(command) ? "config" : "all", hooks);
    for (const name of named(dataKeys)) await fetchData(name, hooks);
  } finally {
    terminal.status("");
  }
}
