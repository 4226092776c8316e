// Where the bytes of a file come from: an interface that disk files (disk.ts), memory and browsers' Blobs all
// meet, so that the decoders in this folder never import node:fs. Reads are positional and never partial.

import { UserError } from "../util/errors.ts";

export interface ByteSource {
  /** For messages: the path or the file's name. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** A fresh copy (its own ArrayBuffer, byteOffset 0) of bytes [offset, offset + length). */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  /** Fills `into` from `offset` on. */
  readInto(offset: number, into: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** A folder of named files, as much of one as the readers of model folders and adapters need. */
export interface Folder {
  /** For messages. */
  readonly path: string;
  /** Names of the plain files directly inside. */
  list(): Promise<readonly string[]>;
  /** UserError when there is no such file. */
  open(name: string): Promise<ByteSource>;
}

/** Throws unless [offset, offset + length) lies inside the source. */
export function checkRange(source: { name: string; size: number }, offset: number, length: number): void {
  if (offset < 0 || length < 0 || offset + length > source.size) {
    throw new UserError(
      `${source.name}: the file ends too early: bytes ${offset} to ${offset + length} were asked for and it has ${source.size}. It is probably an incomplete download or copy; fetch it again.`,
    );
  }
}

/** Bytes already in memory. */
export function memorySource(bytes: Uint8Array, name = "(memory)"): ByteSource {
  const source: ByteSource = {
    name,
    size: bytes.byteLength,
    async read(offset, length) {
      checkRange(source, offset, length);
      return new Uint8Array(bytes.subarray(offset, offset + length));
    },
    async readInto(offset, into) {
      checkRange(source, offset, into.byteLength);
      into.set(bytes.subarray(offset, offset + into.byteLength));
    },
    async close() {},
  };
  return source;
}

/** A folder whose files are in memory. */
export function memoryFolder(files: Readonly<Record<string, Uint8Array>>, path = "(memory)"): Folder {
  return {
    path,
    async list() {
      return Object.keys(files);
    },
    async open(name) {
      const bytes = Object.hasOwn(files, name) ? files[name] : undefined;
      if (!bytes) throw new UserError(`${path}: there is no file ${name}.`);
      return memorySource(bytes, `${path}/${name}`);
    },
  };
}
