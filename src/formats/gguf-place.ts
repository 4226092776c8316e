// Where the small files that are made of a GGUF file's metadata lie (models/gguf/unpack.node.ts makes them): a folder of
// lowrank's cache for each file, named after its path, size and time. Found here without waiting, so that a model's name
// stays what the user wrote.

import { createHash } from "node:crypto";
import { existsSync, realpathSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { cacheFolder } from "./cache-folder.ts";
import { GGUF_TABLE_FILE } from "./gguf-folder.ts";

/** Raised when what is made of a file's metadata changes. */
const version = 1;

/** Whether a model's name is a GGUF file on this disk. */
export function isGgufFile(name: string): boolean {
  return /\.gguf$/i.test(name) && existsSync(name) && statSync(name).isFile();
}

/** The folder of a GGUF file, whether it has been made or not. */
export function ggufPlace(file: string): { readonly folder: string; readonly made: boolean } {
  const path = realpathSync(file);
  const { size, mtimeMs } = statSync(path);
  const key = createHash("sha256")
    .update(JSON.stringify([version, path, size, mtimeMs]))
    .digest("hex");
  const name = `${basename(path)
    .replace(/[^\w.-]/g, "_")
    .slice(0, 80)}-${key.slice(0, 16)}`;
  const folder = join(cacheFolder() ?? join(tmpdir(), "lowrank"), "gguf", name);
  return { folder, made: existsSync(join(folder, GGUF_TABLE_FILE)) };
}
