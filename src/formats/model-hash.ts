// A content hash of a model's configuration and weights, for run.json: was this adapter trained on these weights?
// The sampled hash reads all headers and 64 windows of each file, so it sees another model or another
// fine-tune at once; only the full one sees a single changed byte. It does not cover the tokenizer.

import { createHash, type Hash } from "node:crypto";
import type { ByteSource } from "./byte-source.ts";
import type { ModelFolder } from "./model-folder.ts";

const WINDOWS = 64;
const WINDOW_BYTES = 4096;
const CHUNK_BYTES = 8 << 20;

/** "sampled-sha256:<hex>", or "sha256:<hex>" of every byte with `full`. Independent of where the folder lies. */
export async function hashModelFolder(
  model: ModelFolder,
  options: { readonly full?: boolean } = {},
): Promise<string> {
  const hash = createHash("sha256");
  hash.update(JSON.stringify(model.config));
  for (const { name, source } of model.files) {
    hash.update(`\n${name} ${source.size}\n`);
    if (options.full) await hashAll(source, hash);
    else await hashSamples(source, hash);
  }
  return `${options.full ? "sha256" : "sampled-sha256"}:${hash.digest("hex")}`;
}

async function hashAll(source: ByteSource, hash: Hash): Promise<void> {
  for (let offset = 0; offset < source.size; offset += CHUNK_BYTES) {
    hash.update(await source.read(offset, Math.min(CHUNK_BYTES, source.size - offset)));
  }
}

async function hashSamples(source: ByteSource, hash: Hash): Promise<void> {
  if (source.size <= WINDOWS * WINDOW_BYTES) return hashAll(source, hash);
  const first = new DataView((await source.read(0, 8)).buffer);
  // A GGUF file does not say how long its header is: its first megabyte has the metadata and names.
  const isGguf = first.getUint32(0, true) === 0x46554747;
  const dataStart = isGguf ? Math.min(1 << 20, source.size) : 8 + Number(first.getBigUint64(0, true));
  hash.update(await source.read(0, dataStart));
  const length = Math.min(WINDOW_BYTES, source.size - dataStart);
  const lastStart = source.size - length;
  for (let i = 0; i < WINDOWS; i++) {
    const offset = dataStart + Math.floor(((lastStart - dataStart) * i) / (WINDOWS - 1));
    hash.update(await source.read(offset, length));
  }
}
