// The chain from data and base to what leaves lowrank: each record of a step (run.json, merge-report.json,
// quantize-report.json, NAME.receipt.json beside a GGUF file) names the files that it was made of and those that it made,
// with their SHA-256, and ends with a hash of itself: of its own bytes with 64 zeros in that hash's place. Whoever changes
// a bit anywhere is found by `lowrank verify` (verify-chain.ts), which follows sources that have records of their own.

import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type HashedFile, hashFile, hashUnchangingFile } from "../formats/file-hashes.ts";
import type { ModelFolder } from "../formats/model-folder.ts";
import { sideFilesIn } from "../formats/side-files.ts";
import { BugError } from "../util/errors.ts";

export type ChainStep = "train" | "merge" | "export" | "quantize";

/** Files of one folder that belong together. */
export interface ChainPart {
  /** "model", "base", "adapter", "data", "result", "checkpoint" and the like. */
  readonly role: string;
  /** The folder of a source, or what its user called the model; "." for what lies beside the record. */
  readonly path: string;
  readonly files: readonly HashedFile[];
}

export interface Chain {
  readonly version: 1;
  readonly made: ChainStep;
  readonly sources: readonly ChainPart[];
  readonly outputs: readonly ChainPart[];
  /** Of a run: the SHA-256 of its recipe as checkpoints hold it, without the number of steps. */
  readonly recipe?: string;
  /** "sha256:" and the hash of the record's bytes, with zeros in its own place. */
  readonly self: string;
}

export const REPORT_FILES = {
  merge: "merge-report.json",
  quantize: "quantize-report.json",
  train: "run.json",
};

/** The receipt of a GGUF file, beside it. */
export function receiptPlace(file: string): string {
  return `${file.replace(/\.gguf$/i, "")}.receipt.json`;
}

const zeros = `sha256:${"0".repeat(64)}`;
const selfPattern = /"self":\s*"(sha256:[0-9a-f]{64})"/g;

/** The record as text, with its chain and the hash of itself. */
export function sealedRecord(record: object, chain: Omit<Chain, "version" | "self">): string {
  const whole = { ...record, chain: { version: 1, ...chain, self: zeros } };
  const text = `${JSON.stringify(whole, null, 2)}\n`;
  return replaceSelf(text, zeros, `sha256:${sha256(text)}`) ?? fail();
}

function fail(): never {
  throw new BugError("a record has no place for its own hash");
}

/** Whether a record's bytes are those that were sealed. */
export function isSealed(text: string): boolean {
  const self = [...text.matchAll(selfPattern)].at(-1)?.[1];
  const blank = self === undefined ? undefined : replaceSelf(text, self, zeros);
  return blank !== undefined && `sha256:${sha256(blank)}` === self;
}

/** The last one is the chain's: it comes last in the record. */
function replaceSelf(text: string, from: string, to: string): string | undefined {
  const at = text.lastIndexOf(`"${from}"`);
  return at < 0 ? undefined : `${text.slice(0, at)}"${to}"${text.slice(at + from.length + 2)}`;
}

export function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** Files that may be large and stay as they are, each hashed once; or new ones, `fresh`. */
export async function partOf(
  role: string,
  path: string,
  folder: string,
  names: readonly string[],
  fresh = false,
): Promise<ChainPart> {
  const files: HashedFile[] = [];
  for (const name of names)
    files.push({ name, ...(await (fresh ? hashFile : hashUnchangingFile)(join(folder, name))) });
  return { role, path, files };
}

/** A model that was read. */
export async function modelPart(
  role: string,
  path: string,
  read: Pick<ModelFolder, "path" | "files">,
): Promise<ChainPart> {
  const { folder, names } = await modelFiles(read);
  return partOf(role, read.path === path && folder !== path ? folder : path, folder, names);
}

/** A file that an option names; none where it names none, or what comes with lowrank. */
export async function filePart(role: string, path: string | undefined): Promise<ChainPart[]> {
  const status = path === undefined ? undefined : await stat(path).catch(() => undefined);
  if (path === undefined || !status?.isFile()) return [];
  return [await partOf(role, dirname(path), dirname(path), [basename(path)])];
}

/** Where a model's files lie and what they are called there: all that decides what it computes and how it reads text. */
export async function modelFiles(
  folder: Pick<ModelFolder, "path" | "files">,
): Promise<{ readonly folder: string; readonly names: string[] }> {
  const [first] = folder.files;
  // What a GGUF file is unpacked into is made of the file.
  if (first && /\.gguf$/i.test(first.source.name)) {
    const names = folder.files.map(({ source }) => basename(source.name));
    return { folder: dirname(first.source.name), names: [...new Set(names)] };
  }
  const names = await withConfig(
    folder.path,
    folder.files.map(({ name }) => name),
  );
  return { folder: folder.path, names };
}

/** Weights with config.json, the index of shards, tokenizer and templates, as far as they are there. */
async function withConfig(folder: string, weights: readonly string[]): Promise<string[]> {
  const index = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];
  const named = ["config.json", ...index, ...weights, ...(await sideFilesIn(folder))];
  const there: string[] = [];
  for (const name of new Set(named)) {
    const status = await stat(join(folder, name)).catch(() => undefined);
    if (status?.isFile()) there.push(name);
  }
  return there;
}

/** An adapter's files: factors, configuration, and what of its text lies beside them. */
export async function adapterFiles(folder: string): Promise<string[]> {
  const named = ["adapter_config.json", "adapter_model.safetensors", ...(await sideFilesIn(folder))];
  const there: string[] = [];
  for (const name of named) {
    const status = await stat(join(folder, name)).catch(() => undefined);
    if (status?.isFile()) there.push(name);
  }
  return there;
}
