// What lowrank calls of node:fs/promises, over the worker's file system; the bundle puts it in its place.

import { dirname, join } from "pathe";
import { asSystemError, systemError } from "../storage/system-error.ts";
import { type FileNode, readWhole, type TreeNode, tree } from "../storage/tree.ts";
import { type Place, placeName, Status } from "./status.ts";

/** An open file, or a folder that was opened to be synced. */
export class FileHandle {
  private position = 0;
  private closed = false;

  constructor(
    private readonly node: TreeNode,
    private readonly path: string,
    private readonly writes: boolean,
  ) {}

  async stat(): Promise<Status> {
    return new Status(this.node);
  }

  async read(into: Uint8Array, offset = 0, length = into.byteLength - offset, position?: number | null) {
    const at = position ?? this.position;
    const bytesRead = await this.file.body.read(at, into.subarray(offset, offset + length));
    if (position === undefined || position === null) this.position += bytesRead;
    return { bytesRead, buffer: into };
  }

  async write(bytes: Uint8Array, offset = 0, length = bytes.byteLength - offset, position?: number | null) {
    const { file } = this;
    if (!this.writes) throw systemError("EBADF", this.path);
    const at = position ?? this.position;
    const bytesWritten = await file.body.write(at, bytes.subarray(offset, offset + length));
    if (position === undefined || position === null) this.position += bytesWritten;
    file.changedMs = Date.now();
    return { bytesWritten, buffer: bytes };
  }

  async readFile(): Promise<Uint8Array> {
    return readWhole(this.file.body);
  }

  async truncate(sizeBytes = 0): Promise<void> {
    if (!this.writes) throw systemError("EBADF", this.path);
    await this.file.body.truncate(sizeBytes);
  }

  async sync(): Promise<void> {
    if (this.node.kind === "file") await this.node.body.flush();
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    if (this.node.kind === "file") await this.node.body.close();
  }

  private get file(): FileNode {
    if (this.node.kind === "folder") throw systemError("EISDIR", this.path);
    return this.node;
  }
}

export async function open(path: Place, flags: string | number = "r"): Promise<FileHandle> {
  const name = placeName(path);
  const mode = typeof flags === "number" ? "r" : flags;
  let node = tree.find(name);
  if (node?.kind === "folder") {
    if (mode !== "r") throw systemError("EISDIR", name);
    return new FileHandle(node, name, false);
  }
  if (node && mode.includes("x")) throw systemError("EEXIST", name);
  if (!node && mode.startsWith("r")) throw systemError("ENOENT", name);
  node ??= await tree.makeFile(name);
  const writes = mode !== "r";
  await node.body.open(writes);
  if (mode.startsWith("w")) await node.body.truncate(0);
  return new FileHandle(node, name, writes);
}

export async function stat(path: Place): Promise<Status> {
  const name = placeName(path);
  const node = tree.find(name);
  if (!node) throw systemError("ENOENT", name);
  return new Status(node);
}
export const lstat = stat;
export const realpath = async (path: Place): Promise<string> => {
  await stat(path);
  return placeName(path);
};

interface Entry {
  readonly name: string;
  readonly parentPath: string;
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
}

export async function readdir(
  path: Place,
  options: { readonly withFileTypes?: boolean; readonly recursive?: boolean } = {},
): Promise<(string | Entry)[]> {
  const top = placeName(path);
  const found: { name: string; parentPath: string; node: TreeNode }[] = [];
  const walk = (parentPath: string) => {
    for (const [name, node] of tree.folder(parentPath).children) {
      found.push({ name, parentPath, node });
      if (options.recursive && node.kind === "folder") walk(join(parentPath, name));
    }
  };
  walk(top);
  if (!options.withFileTypes)
    return found.map(({ name, parentPath }) =>
      parentPath === top ? name : join(parentPath.slice(top.length + 1), name),
    );
  return found.map(({ name, parentPath, node }) => ({
    ...{ name, parentPath },
    isFile: () => node.kind === "file",
    isDirectory: () => node.kind === "folder",
    isSymbolicLink: () => false,
  }));
}

export async function mkdir(
  path: Place,
  { recursive = false }: { readonly recursive?: boolean } = {},
): Promise<void> {
  const name = placeName(path);
  if (recursive) {
    if (tree.find(name)?.kind === "folder") return;
    if (dirname(name) !== name) await mkdir(dirname(name), { recursive });
  }
  await tree.makeFolder(name);
}

export async function mkdtemp(prefix: string): Promise<string> {
  const path = `${placeName(prefix)}${crypto.randomUUID().slice(0, 8)}`;
  await mkdir(path, { recursive: true });
  return path;
}

export async function rm(
  path: Place,
  { force = false, recursive = false }: { readonly force?: boolean; readonly recursive?: boolean } = {},
): Promise<void> {
  const name = placeName(path);
  const node = tree.find(name);
  if (!node && force) return;
  if (node?.kind === "folder" && !recursive) throw systemError("EISDIR", name);
  await tree.remove(name);
}

export async function unlink(path: Place): Promise<void> {
  await rm(path);
}

export async function rename(from: Place, to: Place): Promise<void> {
  await tree.rename(placeName(from), placeName(to));
}

export async function copyFile(from: Place, to: Place): Promise<void> {
  await tree.copyFile(placeName(from), placeName(to));
}

export async function readFile(path: Place, encoding?: string): Promise<Uint8Array | string> {
  const name = placeName(path);
  const node = tree.find(name);
  if (!node) throw systemError("ENOENT", name);
  if (node.kind === "folder") throw systemError("EISDIR", name);
  const bytes = await readWhole(node.body).catch((error: unknown) => {
    throw asSystemError(error, name);
  });
  return encoding ? new TextDecoder().decode(bytes) : bytes;
}

export async function writeFile(path: Place, content: string | Uint8Array): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  await tree.writeWhole(placeName(path), bytes);
}

/** Of the hub's cache and of locks between processes; a browser has neither. */
async function missing(path: Place): Promise<never> {
  throw systemError("ENOTSUP", placeName(path));
}
export const link = missing;
export const symlink = missing;
export const utimes = missing;
