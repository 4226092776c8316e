// What of lowrank this browser keeps for this page, seen from the page: models in the origin-private file system, listed and
// removed. Opening one is openModel's affair.

import { UserError } from "../util/errors.ts";

export interface StoredModel {
  readonly name: string;
  readonly sizeBytes: number;
  /** Names of its runs. */
  readonly runs: readonly string[];
}

/** The models that openModel({ stored: name }) opens; none where the page has no storage that outlives it. */
export async function storedModels(): Promise<StoredModel[]> {
  const models = await folderOf("models");
  const found: StoredModel[] = [];
  if (!models) return found;
  for await (const [name, entry] of models.entries()) {
    if (entry.kind !== "directory") continue;
    let sizeBytes = 0;
    let whole = false;
    for await (const [file, inside] of (entry as FileSystemDirectoryHandle).entries()) {
      if (inside.kind !== "file") continue;
      whole ||= file === "config.json";
      sizeBytes += (await (inside as FileSystemFileHandle).getFile()).size;
    }
    if (whole) found.push({ name, sizeBytes, runs: await namesIn("runs", name) });
  }
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Removes a model, with its runs unless `keepRuns`. UserError where a tab has it open. */
export async function removeModel(name: string, { keepRuns = false } = {}): Promise<void> {
  const remove = async () => {
    for (const kind of keepRuns ? (["models"] as const) : (["models", "runs"] as const)) {
      const folder = await folderOf(kind);
      await folder?.removeEntry(name, { recursive: true }).catch((error: DOMException) => {
        if (error.name !== "NotFoundError") throw error;
      });
    }
  };
  if (!navigator.locks) return remove();
  const options = { mode: "exclusive", ifAvailable: true } as const;
  await navigator.locks.request(`lowrank:model:${name}`, options, async (lock) => {
    if (!lock) throw new UserError(`${name}: a tab has this model open; close it first`);
    await remove();
  });
}

async function namesIn(kind: "models" | "runs", name: string): Promise<string[]> {
  const folder = await (await folderOf(kind))?.getDirectoryHandle(name).catch(() => undefined);
  const names: string[] = [];
  if (folder) for await (const inside of folder.keys()) names.push(inside);
  return names.sort();
}

async function folderOf(kind: "models" | "runs"): Promise<FileSystemDirectoryHandle | undefined> {
  try {
    const root = await navigator.storage.getDirectory();
    return await (await root.getDirectoryHandle("lowrank")).getDirectoryHandle(kind);
  } catch {
    return undefined;
  }
}
