// Writes a safetensors file whose tensors come in another order than their bytes lie in: names and shapes are given
// first, the bytes afterwards, piece by piece, each to its place. The file's layout is safetensors-writer.ts's. Meant
// for a staged folder (staged-folder.ts): a file that was not finished is not removed here.

import { type FileHandle, open } from "node:fs/promises";
import { BugError } from "../util/errors.ts";
import { writeProblem } from "./atomic-file.ts";
import {
  DEFAULT_METADATA,
  headerOf,
  inFileOrder,
  type TensorSpec,
  tensorBytesOf,
} from "./safetensors-writer.ts";
import { syncFile } from "./sync-file.ts";

interface Place {
  readonly offset: number;
  readonly sizeBytes: number;
  written: number;
}

export class ScatterFile {
  private constructor(
    private readonly path: string,
    private readonly file: FileHandle,
    private readonly places: ReadonlyMap<string, Place>,
  ) {}

  /** Creates the file, as long as it will be. UserError when it cannot be made. */
  static async create(path: string, specs: readonly TensorSpec[]): Promise<ScatterFile> {
    const sorted = inFileOrder(specs);
    const header = headerOf(sorted, DEFAULT_METADATA);
    const places = new Map<string, Place>();
    let offset = header.byteLength;
    for (const spec of sorted) {
      const sizeBytes = tensorBytesOf(spec);
      places.set(spec.name, { offset, sizeBytes, written: 0 });
      offset += sizeBytes;
    }
    let file: FileHandle | undefined;
    try {
      file = await open(path, "wx");
      await file.truncate(offset);
      await writeAll(file, header, 0);
      return new ScatterFile(path, file, places);
    } catch (error) {
      await file?.close().catch(() => {});
      throw writeProblem(error, path);
    }
  }

  /** The next bytes of a tensor; pieces of one tensor come in order. */
  async append(name: string, bytes: Uint8Array): Promise<void> {
    const place = this.places.get(name);
    if (!place || place.written + bytes.byteLength > place.sizeBytes) {
      throw new BugError(`${this.path}: bytes beyond the end of tensor ${name}`);
    }
    try {
      await writeAll(this.file, bytes, place.offset + place.written);
    } catch (error) {
      throw writeProblem(error, this.path);
    }
    place.written += bytes.byteLength;
  }

  /** Makes the file durable and closes it; every tensor must be whole. */
  async finish(): Promise<void> {
    const partial = [...this.places].find(([, place]) => place.written !== place.sizeBytes);
    if (partial) throw new BugError(`${this.path}: tensor ${partial[0]} was not written whole`);
    try {
      await syncFile(this.file);
    } catch (error) {
      throw writeProblem(error, this.path);
    }
    await this.file.close();
  }

  /** Closes an unfinished file. */
  async abandon(): Promise<void> {
    await this.file.close().catch(() => {});
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.byteLength - done, offset + done);
    done += bytesWritten;
  }
}
