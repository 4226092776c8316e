// What lowrank calls of node:fs, over the worker's file system; the bundle puts it in node:fs' place. Calls that answer at
// once can read what lies in memory, and names everywhere. Promises: fs-promises.ts.

import { BugError } from "../../util/errors.ts";
import { systemError } from "../storage/system-error.ts";
import { type TreeNode, tree } from "../storage/tree.ts";
import { type Place, placeName, Status } from "./status.ts";

export const constants = { O_RDONLY: 0 };

export function existsSync(path: Place): boolean {
  return tree.find(placeName(path)) !== undefined;
}

export function statSync(path: Place): Status {
  return new Status(nodeAt(path));
}

export function readFileSync(path: Place, encoding?: string): Uint8Array | string {
  const node = nodeAt(path);
  if (node.kind === "folder") throw systemError("EISDIR", placeName(path));
  const bytes = new Uint8Array(node.body.sizeBytes);
  node.body.readNow(0, bytes);
  return encoding ? new TextDecoder().decode(bytes) : bytes;
}

export function readdirSync(path: Place): string[] {
  return [...tree.folder(placeName(path)).children.keys()];
}

export const realpathSync = placeName;

const descriptors = new Map<number, TreeNode & { kind: "file" }>();
let nextDescriptor = 3;

export function openSync(path: Place): number {
  const node = nodeAt(path);
  if (node.kind === "folder") throw systemError("EISDIR", placeName(path));
  descriptors.set(nextDescriptor, node);
  return nextDescriptor++;
}

export function fstatSync(descriptor: number): Status {
  return new Status(openNode(descriptor));
}

export function readSync(
  descriptor: number,
  into: Uint8Array,
  offset = 0,
  length = into.byteLength - offset,
  position = 0,
): number {
  return openNode(descriptor).body.readNow(position, into.subarray(offset, offset + length));
}

export function closeSync(descriptor: number): void {
  descriptors.delete(descriptor);
}

/** A file in pieces, as the readers of data files take it. */
export function createReadStream(path: Place, { highWaterMark = 2 ** 16 } = {}) {
  const stream = {
    bytesRead: 0,
    destroy() {},
    async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
      const node = nodeAt(path);
      if (node.kind === "folder") throw systemError("EISDIR", placeName(path));
      await node.body.open(false);
      try {
        for (;;) {
          const piece = new Uint8Array(highWaterMark);
          const length = await node.body.read(stream.bytesRead, piece);
          if (length === 0) return;
          stream.bytesRead += length;
          yield piece.subarray(0, length);
        }
      } finally {
        await node.body.close();
      }
    },
  };
  return stream;
}

/** Of locks between processes, which a browser does with locks of its own. */
export function unlinkSync(): never {
  throw new BugError("a browser's files are not removed at once");
}
export const readlinkSync = unlinkSync;
export const writeSync = unlinkSync;

function nodeAt(path: Place): TreeNode {
  const node = tree.find(placeName(path));
  if (!node) throw systemError("ENOENT", placeName(path));
  return node;
}

function openNode(descriptor: number) {
  const node = descriptors.get(descriptor);
  if (!node) throw systemError("EBADF", String(descriptor));
  return node;
}
