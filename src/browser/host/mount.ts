// The folders of the worker's file system that outlive the page, from OPFS where this page may use it: /models and /runs.
// Also locks between tabs. Not here: the tree itself (storage/tree.ts).

import { UserError } from "../../util/errors.ts";
import { MemoryBody } from "../storage/body.ts";
import { folderNode, readDiskFolder, tree } from "../storage/tree.ts";

export const modelsFolder = "/models";
export const runsFolder = "/runs";
/** The folder in OPFS; an origin may have others beside it. */
const storeName = "lowrank";

export interface StorageState {
  readonly kept: boolean;
  readonly reason?: string;
}

let store: FileSystemDirectoryHandle | undefined;

/** Makes the folders. `version` is lowrank's own, which runs write down. */
export async function mountFolders(version: string): Promise<StorageState> {
  const packageFile = new TextEncoder().encode(JSON.stringify({ version }));
  tree.mount("/lowrank/package.json", {
    kind: "file",
    body: new MemoryBody(packageFile),
    changedMs: 0,
  });
  for (const path of ["/cache", "/tmp", "/home"]) tree.mount(path, folderNode());
  try {
    const root = await navigator.storage.getDirectory();
    store = await root.getDirectoryHandle(storeName, { create: true });
    for (const path of [modelsFolder, runsFolder])
      tree.mount(path, folderNode(await store.getDirectoryHandle(path.slice(1), { create: true })));
    return { kept: true };
  } catch (error) {
    for (const path of [modelsFolder, runsFolder]) tree.mount(path, folderNode());
    const why = error instanceof Error ? error.message : String(error);
    return { kept: false, reason: `this page has no storage that outlives it (${why})` };
  }
}

/** Reads again what OPFS holds in /models/NAME or /runs/NAME: another tab may have changed it. */
export async function refresh(folder: string, name: string): Promise<void> {
  if (!store) return;
  const parent = await store.getDirectoryHandle(folder.slice(1), { create: true });
  try {
    tree.mount(`${folder}/${name}`, await readDiskFolder(await parent.getDirectoryHandle(name)));
  } catch (error) {
    if ((error as DOMException).name !== "NotFoundError") throw error;
    tree.folder(folder).children.delete(name);
  }
}

/** Ends a lock; it is free once this resolves. */
export type Release = () => Promise<void>;

/** Holds a name against other tabs until released; undefined where another one has it. */
export async function takeLock(name: string, mode: "shared" | "exclusive"): Promise<Release | undefined> {
  // Without locks the page has no storage either that another tab could touch.
  if (!navigator.locks) return async () => {};
  return new Promise((resolve, reject) => {
    const held = navigator.locks.request(`lowrank:${name}`, { mode, ifAvailable: true }, (lock) => {
      if (!lock) return resolve(undefined);
      return new Promise<void>((end) =>
        resolve(async () => {
          end();
          await held;
        }),
      );
    });
    held.catch(reject);
  });
}

/** UserError, with both numbers, where storage has no room for so many bytes more. */
export async function requireRoom(what: string, bytes: number): Promise<void> {
  if (!store) return;
  const { quota, usage = 0 } = await navigator.storage.estimate();
  if (quota === undefined || usage + bytes <= quota) return;
  throw new UserError(
    `${what}: ${bytes} bytes are needed and this browser gives this page ${Math.max(0, quota - usage)} bytes more; remove models with removeModel(), or free space on the disk`,
  );
}
