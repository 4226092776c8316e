// Folders as a browser's origin-private file system has them, in memory: as much as storage/ uses, its refusals included
// (one synchronous handle a file, files that can be moved and folders that cannot).

export interface Disk {
  readonly root: FileSystemDirectoryHandle;
  /** Moves that still work; then the tab is gone. */
  movesLeft: number;
}

interface FakeFile {
  readonly kind: "file";
  name: string;
  bytes: Uint8Array<ArrayBuffer>;
  locked: boolean;
  folder: FakeFolder;
}
interface FakeFolder {
  readonly kind: "directory";
  readonly name: string;
  readonly inside: Map<string, FakeFile | FakeFolder>;
}

export function fakeDisk(): Disk {
  const disk = { movesLeft: Number.POSITIVE_INFINITY, root: undefined as unknown };
  const refuse = (name: string) => {
    throw new DOMException(name, name);
  };

  const fileHandle = (file: FakeFile): object => ({
    kind: "file",
    get name() {
      return file.name;
    },
    async getFile() {
      return new File([file.bytes], file.name);
    },
    async createSyncAccessHandle() {
      if (file.locked) refuse("NoModificationAllowedError");
      file.locked = true;
      return {
        read(into: Uint8Array, { at }: { at: number }) {
          const piece = file.bytes.subarray(at, at + into.byteLength);
          into.set(piece);
          return piece.byteLength;
        },
        write(bytes: Uint8Array, { at }: { at: number }) {
          const grown = new Uint8Array(Math.max(file.bytes.byteLength, at + bytes.byteLength));
          grown.set(file.bytes);
          grown.set(bytes, at);
          file.bytes = grown;
          return bytes.byteLength;
        },
        truncate(size: number) {
          const cut = new Uint8Array(size);
          cut.set(file.bytes.subarray(0, size));
          file.bytes = cut;
        },
        flush() {},
        close() {
          file.locked = false;
        },
      };
    },
    async move(folder: { fake: FakeFolder }, name: string) {
      if (disk.movesLeft-- <= 0) throw new Error("the tab was closed");
      if (file.locked) refuse("NoModificationAllowedError");
      file.folder.inside.delete(file.name);
      file.name = name;
      file.folder = folder.fake;
      folder.fake.inside.set(name, file);
    },
  });

  const folderHandle = (folder: FakeFolder): object => ({
    ...{ kind: "directory", name: folder.name, fake: folder },
    async getDirectoryHandle(name: string, { create = false } = {}) {
      let found = folder.inside.get(name);
      if (found?.kind === "file") refuse("TypeMismatchError");
      if (!found && !create) refuse("NotFoundError");
      found ??= { kind: "directory", name, inside: new Map() };
      folder.inside.set(name, found);
      return folderHandle(found as FakeFolder);
    },
    async getFileHandle(name: string, { create = false } = {}) {
      let found = folder.inside.get(name);
      if (found?.kind === "directory") refuse("TypeMismatchError");
      if (!found && !create) refuse("NotFoundError");
      found ??= { kind: "file", name, bytes: new Uint8Array(0), locked: false, folder };
      folder.inside.set(name, found);
      return fileHandle(found as FakeFile);
    },
    async removeEntry(name: string) {
      const found = folder.inside.get(name);
      if (!found) refuse("NotFoundError");
      if (found?.kind === "file" && found.locked) refuse("NoModificationAllowedError");
      folder.inside.delete(name);
    },
    async *entries() {
      for (const [name, each] of folder.inside)
        yield [name, each.kind === "file" ? fileHandle(each) : folderHandle(each)];
    },
  });
  disk.root = folderHandle({ kind: "directory", name: "", inside: new Map() });
  return disk as Disk;
}
