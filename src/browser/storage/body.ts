// What a file of the worker's file system holds, and where: in memory, in a Blob that the user gave, or in the
// origin-private file system (OPFS). Names and folders are tree.ts's.

import { asSystemError, systemError } from "./system-error.ts";

export interface Body {
  readonly sizeBytes: number;
  /** Before reads and writes; as many close() as open(). */
  open(writes: boolean): Promise<void>;
  close(): Promise<void>;
  /** Bytes read into `into` from `offset` on; 0 at the end. */
  read(offset: number, into: Uint8Array): Promise<number>;
  /** The same at once, where that can be. */
  readNow(offset: number, into: Uint8Array): number;
  write(offset: number, bytes: Uint8Array): Promise<number>;
  truncate(sizeBytes: number): Promise<void>;
  flush(): Promise<void>;
}

/** Bytes in this worker's memory; they go with it. */
export class MemoryBody implements Body {
  sizeBytes: number;
  constructor(private bytes: Uint8Array = new Uint8Array(0)) {
    this.sizeBytes = bytes.byteLength;
  }

  async open(): Promise<void> {}
  async close(): Promise<void> {}
  async flush(): Promise<void> {}

  async read(offset: number, into: Uint8Array): Promise<number> {
    return this.readNow(offset, into);
  }

  readNow(offset: number, into: Uint8Array): number {
    const end = Math.min(this.sizeBytes, offset + into.byteLength);
    if (end <= offset) return 0;
    into.set(this.bytes.subarray(offset, end));
    return end - offset;
  }

  async write(offset: number, bytes: Uint8Array): Promise<number> {
    const end = offset + bytes.byteLength;
    if (end > this.bytes.byteLength) {
      const grown = new Uint8Array(Math.max(end, 2 * this.bytes.byteLength));
      grown.set(this.bytes.subarray(0, this.sizeBytes));
      this.bytes = grown;
    }
    this.bytes.set(bytes, offset);
    this.sizeBytes = Math.max(this.sizeBytes, end);
    return bytes.byteLength;
  }

  async truncate(sizeBytes: number): Promise<void> {
    if (sizeBytes > this.sizeBytes) {
      const before = this.sizeBytes;
      await this.write(sizeBytes, new Uint8Array(0));
      this.bytes.fill(0, before, sizeBytes);
    }
    this.bytes.fill(0, sizeBytes, this.sizeBytes);
    this.sizeBytes = sizeBytes;
  }
}

/** A file that the user gave. It is read where it lies, never whole. */
export class BlobBody implements Body {
  readonly sizeBytes: number;
  constructor(
    private readonly blob: Blob,
    private readonly name: string,
  ) {
    this.sizeBytes = blob.size;
  }

  async open(writes: boolean): Promise<void> {
    if (writes) throw systemError("EROFS", this.name);
  }
  async close(): Promise<void> {}
  async flush(): Promise<void> {}

  async read(offset: number, into: Uint8Array): Promise<number> {
    try {
      return await readBlob(this.blob, offset, into);
    } catch (error) {
      throw asSystemError(error, this.name);
    }
  }

  readNow(): never {
    throw systemError("ENOTSUP", this.name);
  }
  async write(): Promise<never> {
    throw systemError("EROFS", this.name);
  }
  async truncate(): Promise<never> {
    throw systemError("EROFS", this.name);
  }
}

/** As browsers have it for dedicated workers; the types of TypeScript's "dom" leave it out. */
interface SyncAccess {
  read(into: Uint8Array, options: { at: number }): number;
  write(bytes: Uint8Array, options: { at: number }): number;
  truncate(sizeBytes: number): void;
  flush(): void;
  close(): void;
}
interface WithSyncAccess {
  createSyncAccessHandle(): Promise<SyncAccess>;
}

/** A file of OPFS: written through the browser's synchronous handle, of which a file has one at a time, in all tabs. */
export class DiskBody implements Body {
  private access: Promise<SyncAccess> | undefined;
  private opened: SyncAccess | undefined;
  private snapshot: File | undefined;
  private users = 0;

  constructor(
    readonly handle: FileSystemFileHandle,
    public sizeBytes: number,
  ) {}

  async open(writes: boolean): Promise<void> {
    if (writes) {
      this.access ??= (this.handle as unknown as WithSyncAccess).createSyncAccessHandle();
      try {
        this.opened = await this.access;
      } catch (error) {
        this.access = undefined;
        throw asSystemError(error, this.handle.name);
      }
      this.snapshot = undefined;
    }
    this.users++;
  }

  async close(): Promise<void> {
    if (--this.users > 0) return;
    this.opened?.close();
    this.opened = this.access = this.snapshot = undefined;
  }

  async read(offset: number, into: Uint8Array): Promise<number> {
    if (this.opened) return this.readNow(offset, into);
    try {
      this.snapshot ??= await this.handle.getFile();
      return await readBlob(this.snapshot, offset, into);
    } catch (error) {
      throw asSystemError(error, this.handle.name);
    }
  }

  readNow(offset: number, into: Uint8Array): number {
    if (!this.opened) throw systemError("ENOTSUP", this.handle.name);
    return this.opened.read(into, { at: offset });
  }

  async write(offset: number, bytes: Uint8Array): Promise<number> {
    return this.at((access) => {
      const written = access.write(bytes, { at: offset });
      this.sizeBytes = Math.max(this.sizeBytes, offset + written);
      return written;
    });
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.at((access) => access.truncate(sizeBytes));
    this.sizeBytes = sizeBytes;
  }

  async flush(): Promise<void> {
    this.opened?.flush();
  }

  private at<T>(use: (access: SyncAccess) => T): T {
    if (!this.opened) throw systemError("EBADF", this.handle.name);
    try {
      return use(this.opened);
    } catch (error) {
      throw asSystemError(error, this.handle.name);
    }
  }
}

async function readBlob(blob: Blob, offset: number, into: Uint8Array): Promise<number> {
  const piece = new Uint8Array(await blob.slice(offset, offset + into.byteLength).arrayBuffer());
  into.set(piece);
  return piece.byteLength;
}
