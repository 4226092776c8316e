// Where the small files that are made of a GGUF file's metadata lie (models/gguf/unpack.node.ts makes them): a folder of
// lowrank's cache for each file, named after its path, size and time. Found here without waiting, so that a model's name
// stays what the user wrote.

import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../util/errors.ts";
import { cacheFolder } from "./cache-folder.ts";
import { GGUF_TABLE_FILE } from "./gguf-folder.ts";
import { ggufPartName } from "./gguf-parts.ts";

/** Raised when what is made of a file's metadata changes. */
const version = 2;

/** Whether a model's name is a GGUF file on this disk. */
export function isGgufFile(name: string): boolean {
  return /\.gguf$/i.test(name) && existsSync(name) && statSync(name).isFile();
}

export interface GgufFilePlace {
  /** Where it is, or is to be made. */
  readonly folder: string;
  readonly made: boolean;
  /** Where it is made when the cache cannot be written. */
  readonly spare?: string;
}

/** The folder of a GGUF file, whether it has been made or not. UserError where there is no such file. */
export function ggufPlace(file: string): GgufFilePlace {
  const path = resolve(file);
  const key = createHash("sha256")
    .update(JSON.stringify([version, path, filesOf(file)]))
    .digest("hex");
  const name = `${basename(path)
    .replace(/[^\w.-]/g, "_")
    .slice(0, 80)}-${key.slice(0, 16)}`;
  const [first, ...others] = ggufPlaces().map((place) => join(place, name));
  if (first === undefined)
    throw new UserError(
      `${file}: there is no folder to keep what is made of its metadata: set LOWRANK_CACHE to one that can be written`,
    );
  const found = [first, ...others].find((folder) => existsSync(join(folder, GGUF_TABLE_FILE)));
  return { folder: found ?? first, made: found !== undefined, spare: others[0] };
}

/** Sizes and times of a file and, of one that is named like a part, of the others; null for what is not there. */
function filesOf(file: string): unknown[] {
  return (ggufPartName(file)?.all ?? [file]).map((path) => {
    try {
      const { size, mtimeMs } = statSync(path);
      return [size, mtimeMs];
    } catch (error) {
      if (path !== file) return null;
      const { code, message } = error as NodeJS.ErrnoException;
      throw new UserError(`${file}: ${code === "ENOENT" ? "there is no such file." : message}`);
    }
  });
}

/** Whether a folder is one of those: a table of weights anywhere else is none of lowrank's. */
export function isGgufPlace(folder: string): boolean {
  return ggufPlaces().some((place) => dirname(resolve(folder)) === resolve(place));
}

function ggufPlaces(): string[] {
  return [cacheFolder(), temporaryCache()].flatMap((place) =>
    place === undefined ? [] : [join(place, "gguf")],
  );
}

/** A folder among temporary files that is this user's own, for nobody else may say where weights lie. */
function temporaryCache(): string | undefined {
  const user = process.getuid?.();
  const folder = join(tmpdir(), `lowrank${user === undefined ? "" : `-${user}`}`);
  if (user === undefined || !existsSync(folder)) return folder;
  const { uid, mode } = statSync(folder);
  return uid === user && (mode & 0o022) === 0 ? folder : undefined;
}
