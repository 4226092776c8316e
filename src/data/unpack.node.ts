// A data file's bytes in pieces, unpacked where it is compressed (.gz, .zst), so that none is ever whole in memory. What a
// small file may unpack to is bounded. Not here: rows (read-rows.node.ts, parse-rows.ts).

import { createReadStream } from "node:fs";
import { extname } from "node:path";
import { pipeline } from "node:stream";
import zlib from "node:zlib";
import { Decompress } from "fzstd";
import { UserError } from "../util/errors.ts";

/** What unpacking may come to: text seldom shrinks to a hundredth, and gzip can claim a thousandfold. */
export interface UnpackingBounds {
  readonly bytes: number;
  /** For each byte of the packed file, besides. */
  readonly bytesPerByte: number;
  /** Of zstd: what `zstd` itself unpacks without being asked to take more. */
  readonly windowBytes: number;
}

export const unpackingBounds: UnpackingBounds = { bytes: 2 ** 30, bytesPerByte: 300, windowBytes: 2 ** 27 };

const PIECE_BYTES = 2 ** 20;
/** A block of four bytes may unpack to 128 KiB, and the library unpacks all that it is given at once. */
const ZSTD_PIECE_BYTES = 2 ** 12;

const packings = [".gz", ".zst"] as const;
export type Packing = (typeof packings)[number];

/** rows.jsonl.gz -> { kind: ".jsonl", packing: ".gz" } */
export function endingOf(name: string): { readonly kind: string; readonly packing?: Packing } {
  const last = extname(name).toLowerCase();
  const packing = packings.find((each) => each === last);
  if (packing === undefined) return { kind: last };
  return { kind: extname(name.slice(0, -last.length)).toLowerCase(), packing };
}

/** UserError, beginning with `name`, where the file cannot be read or unpacked, or unpacks beyond its bounds. */
export async function* unpackedBytes(
  path: string,
  name: string,
  packing: Packing | undefined,
  bounds = unpackingBounds,
): AsyncGenerator<Uint8Array> {
  let unpacked = 0;
  const source = createReadStream(path, { highWaterMark: PIECE_BYTES });
  const count = (piece: Uint8Array) => {
    unpacked += piece.length;
    if (packing !== undefined && unpacked > bounds.bytes + bounds.bytesPerByte * source.bytesRead)
      throw new UserError(
        `${name}: unpacks to more than ${bounds.bytesPerByte} times its size, which rows do not; it is damaged or made to fill memory. Unpack it yourself if it is sound.`,
      );
    return piece;
  };
  try {
    if (packing === ".zst" && !nativeZstd) yield* zstdBytes(source, name, bounds, count);
    else {
      const unpacker =
        packing === ".gz" ? zlib.createGunzip({ chunkSize: PIECE_BYTES }) : packing && nativeZstd!();
      // A failure of either stream reaches whoever reads the last.
      const stream = unpacker ? pipeline(source, unpacker, () => {}) : source;
      for await (const piece of stream) yield count(piece as Uint8Array);
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new UserError(`${name}: there is no such file.`);
    if (packing === undefined) throw new UserError(`${name}: cannot be read: ${message}`);
    throw new UserError(`${name}: cannot be unpacked (${message}); it is cut off or damaged, or not packed.`);
  } finally {
    source.destroy();
  }
}

/** Node's own, from 22.15 on. */
const nativeZstd = (
  zlib as { createZstdDecompress?: (options?: object) => zlib.Gunzip }
).createZstdDecompress?.bind(zlib, { chunkSize: PIECE_BYTES });

async function* zstdBytes(
  source: AsyncIterable<Uint8Array>,
  name: string,
  bounds: UnpackingBounds,
  count: (piece: Uint8Array) => Uint8Array,
): AsyncGenerator<Uint8Array> {
  let ready: Uint8Array[] = [];
  const stream = new Decompress((piece) => void ready.push(count(piece)));
  let first = true;
  for await (const chunk of source) {
    if (first) refuseWideWindow(chunk, name, bounds.windowBytes);
    first = false;
    for (let at = 0; at < chunk.length; at += ZSTD_PIECE_BYTES) {
      // Copied, for the library keeps what it cannot use yet, and the stream reuses its memory.
      stream.push(chunk.slice(at, at + ZSTD_PIECE_BYTES));
      yield* ready;
      ready = [];
    }
  }
  stream.push(new Uint8Array(0), true);
  yield* ready;
}

/** magic u32 | descriptor u8 | window descriptor u8, unless the descriptor's bit 5 says that there is none (RFC 8878) */
function refuseWideWindow(bytes: Uint8Array, name: string, most: number): void {
  const magic =
    bytes.length > 5 && bytes[0] === 0x28 && bytes[1] === 0xb5 && bytes[2] === 0x2f && bytes[3] === 0xfd;
  if (!magic || (bytes[4]! & 32) !== 0) return;
  const base = 2 ** (10 + (bytes[5]! >> 3));
  const windowBytes = base + (base / 8) * (bytes[5]! & 7);
  if (windowBytes > most)
    throw new UserError(
      `${name}: asks for ${windowBytes} bytes of memory to unpack, and at most ${most} are given; pack it anew without --long.`,
    );
}
