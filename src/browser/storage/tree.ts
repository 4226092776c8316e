// The worker's file system: one tree of names, parts of which lie in the origin-private file system (OPFS) and outlive the
// page, the rest in memory. Names are looked up in the tree at once; what changes a part that lies in OPFS changes it
// there first. Renaming a folder, which OPFS cannot, moves its files one by one under a note that says where to, so that a
// tab closed in the middle is made good (finishRenames). Not here: files' bytes (body.ts), Node's calls (platform/).

import { dirname, join, resolve } from "pathe";
import { type Body, DiskBody, MemoryBody } from "./body.ts";
import { asSystemError, systemError } from "./system-error.ts";

export interface FileNode {
  readonly kind: "file";
  readonly body: Body;
  changedMs: number;
}

export interface FolderNode {
  readonly kind: "folder";
  readonly children: Map<string, TreeNode>;
  /** Present: it lies in OPFS. */
  readonly handle?: FileSystemDirectoryHandle;
}

export type TreeNode = FileNode | FolderNode;

/** A file's handle with the call that browsers have for OPFS and TypeScript's types do not. */
interface Movable {
  move?(folder: FileSystemDirectoryHandle, name: string): Promise<void>;
}

const copyPieceBytes = 4 * 2 ** 20;
const notePrefix = ".rename-";

export class Tree {
  readonly root: FolderNode = folderNode();

  find(path: string): TreeNode | undefined {
    let node: TreeNode | undefined = this.root;
    for (const name of namesOf(path)) {
      if (node?.kind !== "folder") return undefined;
      node = node.children.get(name);
    }
    return node;
  }

  /** ENOENT, or ENOTDIR where it is a file. */
  folder(path: string): FolderNode {
    const node = this.find(path);
    if (!node) throw systemError("ENOENT", path);
    if (node.kind !== "folder") throw systemError("ENOTDIR", path);
    return node;
  }

  /** Puts a node under a name, in the tree alone. */
  mount(path: string, node: TreeNode): void {
    let folder = this.root;
    const names = namesOf(path);
    const last = names.pop()!;
    for (const name of names) {
      let next = folder.children.get(name);
      if (next?.kind !== "folder") {
        next = folderNode();
        folder.children.set(name, next);
      }
      folder = next;
    }
    folder.children.set(last, node);
  }

  async makeFolder(path: string): Promise<void> {
    const [parent, name] = this.placeOf(path);
    if (parent.children.has(name)) throw systemError("EEXIST", path);
    const handle = await attempt(path, async () => parent.handle?.getDirectoryHandle(name, { create: true }));
    parent.children.set(name, folderNode(handle));
  }

  async makeFile(path: string): Promise<FileNode> {
    const [parent, name] = this.placeOf(path);
    const { handle } = parent;
    const made = await attempt(path, async () => handle?.getFileHandle(name, { create: true }));
    const body = made ? new DiskBody(made, (await made.getFile()).size) : new MemoryBody();
    const node: FileNode = { kind: "file", body, changedMs: Date.now() };
    parent.children.set(name, node);
    return node;
  }

  /** A file, or a folder with all that is in it. */
  async remove(path: string): Promise<void> {
    const [parent, name] = this.placeOf(path);
    if (!parent.children.has(name)) throw systemError("ENOENT", path);
    await attempt(path, async () => parent.handle?.removeEntry(name, { recursive: true }));
    parent.children.delete(name);
  }

  async rename(from: string, to: string): Promise<void> {
    const node = this.find(from);
    if (!node) throw systemError("ENOENT", from);
    if (resolve("/", from) === resolve("/", to)) return;
    if (node.kind === "file") return this.moveFile(from, to);
    const present = this.find(to);
    if (present?.kind === "file") throw systemError("ENOTDIR", to);
    if (present && present.children.size > 0) throw systemError("ENOTEMPTY", to);
    const [parent, name] = this.placeOf(to);
    if (parent.handle === undefined && node.handle === undefined) {
      const [before, oldName] = this.placeOf(from);
      before.children.delete(oldName);
      parent.children.set(name, node);
      return;
    }
    const note = join(dirname(to), `${notePrefix}${name}`);
    await this.writeWhole(note, new TextEncoder().encode(JSON.stringify({ from, to })));
    await this.moveFolder(from, to);
    await this.remove(note);
  }

  /** Completes what a closed tab left half renamed below a folder. Only for whoever holds the lock on it. */
  async finishRenames(path: string): Promise<void> {
    const node = this.find(path);
    if (node?.kind !== "folder") return;
    for (const [name, child] of [...node.children]) {
      const inside = join(path, name);
      if (child.kind === "folder") await this.finishRenames(inside);
      else if (name.startsWith(notePrefix)) {
        const note = readNote(await readWhole(child.body));
        if (note && this.find(note.from)?.kind === "folder") await this.moveFolder(note.from, note.to);
        await this.remove(inside);
      }
    }
  }

  async writeWhole(path: string, bytes: Uint8Array): Promise<void> {
    const present = this.find(path);
    if (present?.kind === "folder") throw systemError("EISDIR", path);
    const { body } = present ?? (await this.makeFile(path));
    await body.open(true);
    try {
      await body.truncate(0);
      for (let done = 0; done < bytes.byteLength; ) done += await body.write(done, bytes.subarray(done));
      await body.flush();
    } finally {
      await body.close();
    }
  }

  private async moveFolder(from: string, to: string): Promise<void> {
    if (this.find(to) === undefined) await this.makeFolder(to);
    for (const [name, child] of [...this.folder(from).children]) {
      const [one, other] = [join(from, name), join(to, name)];
      if (child.kind === "folder") await this.moveFolder(one, other);
      else await this.moveFile(one, other);
    }
    await this.remove(from);
  }

  private async moveFile(from: string, to: string): Promise<void> {
    const node = this.find(from) as FileNode;
    const [before, oldName] = this.placeOf(from);
    const [parent, name] = this.placeOf(to);
    if (parent.children.get(name)?.kind === "folder") throw systemError("EISDIR", to);
    const handle = node.body instanceof DiskBody ? (node.body.handle as Movable) : undefined;
    if (parent.handle === undefined && before.handle === undefined) parent.children.set(name, node);
    else if (handle?.move && parent.handle) {
      await attempt(to, () => handle.move!(parent.handle!, name));
      parent.children.set(name, node);
    } else {
      await this.copyFile(from, to);
      await this.remove(from);
      return;
    }
    before.children.delete(oldName);
  }

  async copyFile(from: string, to: string): Promise<void> {
    const source = this.find(from);
    if (!source) throw systemError("ENOENT", from);
    if (source.kind === "folder") throw systemError("EISDIR", from);
    const present = this.find(to);
    if (present?.kind === "folder") throw systemError("EISDIR", to);
    const { body } = present ?? (await this.makeFile(to));
    await source.body.open(false);
    await body.open(true);
    try {
      await body.truncate(0);
      const piece = new Uint8Array(copyPieceBytes);
      for (let offset = 0; offset < source.body.sizeBytes; ) {
        const length = await source.body.read(offset, piece);
        if (length === 0) break;
        await body.write(offset, piece.subarray(0, length));
        offset += length;
      }
      await body.flush();
    } finally {
      await body.close();
      await source.body.close();
    }
  }

  private placeOf(path: string): [FolderNode, string] {
    const names = namesOf(path);
    const name = names.pop();
    if (name === undefined) throw systemError("EBUSY", path);
    return [this.folder(`/${names.join("/")}`), name];
  }
}

export function folderNode(handle?: FileSystemDirectoryHandle): FolderNode {
  return { kind: "folder", children: new Map(), handle };
}

/** What OPFS holds below a folder, as it is now. */
export async function readDiskFolder(handle: FileSystemDirectoryHandle): Promise<FolderNode> {
  const node = folderNode(handle);
  for await (const [name, entry] of handle.entries()) {
    if (entry.kind === "directory") {
      node.children.set(name, await readDiskFolder(entry as FileSystemDirectoryHandle));
      continue;
    }
    const file = await (entry as FileSystemFileHandle).getFile();
    const body = new DiskBody(entry as FileSystemFileHandle, file.size);
    node.children.set(name, { kind: "file", body, changedMs: file.lastModified });
  }
  return node;
}

export async function readWhole(body: Body): Promise<Uint8Array<ArrayBuffer>> {
  await body.open(false);
  try {
    const bytes = new Uint8Array(body.sizeBytes);
    for (let done = 0; done < bytes.byteLength; ) {
      const length = await body.read(done, bytes.subarray(done));
      if (length === 0) return bytes.slice(0, done);
      done += length;
    }
    return bytes;
  } finally {
    await body.close();
  }
}

function namesOf(path: string): string[] {
  return resolve("/", path)
    .split("/")
    .filter((name) => name !== "");
}

function readNote(bytes: Uint8Array): { from: string; to: string } | undefined {
  try {
    const { from, to } = JSON.parse(new TextDecoder().decode(bytes));
    return typeof from === "string" && typeof to === "string" ? { from, to } : undefined;
  } catch {
    // Closed while the note was written: nothing had been moved yet.
    return undefined;
  }
}

async function attempt<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw asSystemError(error, path);
  }
}

/** The one tree of this worker. */
export const tree = new Tree();
