// Walks the chain (chain.ts) from what it is given back to data and base: each record's own bytes, each file that it says
// was made, each that it was made of, and the records of these. Nothing is taken from a cache. A record may be hostile:
// its size, its depth and its names have bounds, and nothing but the files that it names is read, to be hashed.
// Not here: running steps again (train/replay.ts).

import { readFile, realpath, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { hashFile } from "../formats/file-hashes.ts";
import { locateGguf, locateModel } from "../formats/locate-model.ts";
import { UserError } from "../util/errors.ts";
import { type Chain, type ChainPart, isSealed, REPORT_FILES, receiptPlace } from "./chain.ts";

export type LinkState =
  | "sound"
  /** It is there and is another. */
  | "broken"
  /** A source that is not where it was: nothing can be said of it. */
  | "not found";

export interface Link {
  /** The record that names it. */
  readonly record: string;
  /** "record" for the record's own bytes. */
  readonly role: string;
  readonly file: string;
  readonly state: LinkState;
  readonly problem?: string;
}

export interface WalkedRecord {
  readonly path: string;
  /** Absent where the record is damaged. */
  readonly json?: Readonly<Record<string, unknown>> & { readonly chain: Chain };
}

export interface WalkOptions {
  /** Where models and data lie now, in place of what records say. */
  readonly model?: string;
  readonly data?: readonly string[];
  readonly onLink?: (link: Link) => void;
}

const recordCapBytes = 64 * 2 ** 20;
const filesCap = 100_000;
const depthCap = 16;
const sumsName = "SHA256SUMS";
const sumsCapBytes = 2 ** 20;

/** The records that speak of a file or a folder. UserError where there is none. */
export async function recordsOf(place: string): Promise<string[]> {
  const status = await stat(place).catch(() => undefined);
  if (!status) throw new UserError(`${place}: there is no such file or folder`);
  const there = async (paths: readonly string[]) => {
    const found: string[] = [];
    for (const path of paths) if (await isFile(path)) found.push(path);
    return found;
  };
  if (status.isDirectory()) {
    const found = await there(Object.values(REPORT_FILES).map((name) => join(place, name)));
    if (found.length > 0) return found;
    throw new UserError(
      `${place}: no record of lowrank lies here (${Object.values(REPORT_FILES).join(", ")}), so there is no chain to follow`,
    );
  }
  if (/\.json$/i.test(place) && !/config|tokenizer|index/.test(basename(place))) return [place];
  const [receipt] = await there([receiptPlace(place)]);
  if (/\.gguf$/i.test(place)) {
    if (receipt !== undefined) return [receipt];
    throw new UserError(
      `${place}: its receipt ${basename(receiptPlace(place))} does not lie beside it; it was left behind, or the file is no export of this lowrank`,
    );
  }
  return recordsOf(dirname(resolve(place)));
}

/** UserError for a file that lies beside records which say nothing of it: that they hold says nothing of it either. */
export async function requireNamed(place: string, links: readonly Link[]): Promise<void> {
  if (!(await isFile(place))) return;
  const real = await realpath(place);
  for (const { role, record, file } of links)
    if (real === (await realpath(role === "record" ? record : file).catch(() => undefined))) return;
  const records = [...new Set(links.map(({ record }) => basename(record)))].slice(0, 4).join(", ");
  throw new UserError(
    `${place}: no record names this file (${records}), so nothing can be said of it; give its folder to check what they name`,
  );
}

/** All links from these records on; and the records themselves. */
export async function walkChain(
  records: readonly string[],
  options: WalkOptions = {},
): Promise<{ readonly links: readonly Link[]; readonly records: readonly WalkedRecord[] }> {
  const walk = new Walk(options);
  for (const record of records) await walk.record(record, 0);
  return { links: walk.links, records: walk.records };
}

class Walk {
  readonly links: Link[] = [];
  readonly records: WalkedRecord[] = [];
  private readonly seen = new Set<string>();
  private left = filesCap;

  constructor(private readonly options: WalkOptions) {}

  async record(path: string, depth: number): Promise<void> {
    const real = await realpath(path).catch(() => path);
    if (this.seen.has(real) || depth > depthCap) return;
    this.seen.add(real);
    const tell = (state: LinkState, problem?: string) =>
      this.tell({ record: path, role: "record", file: basename(path), state, problem });
    const text = await readCapped(path, recordCapBytes);
    if (text === undefined) {
      this.records.push({ path });
      return tell("broken", "it cannot be read");
    }
    const json = parsed(text);
    const chain = json && chainIn(json);
    if (!json || !chain) {
      this.records.push({ path });
      const status = json?.status;
      if (status === "running" || status === "interrupted" || status === "failed")
        return tell("not found", `the run is not done (${status}), and its chain is written at its end`);
      return tell("broken", "it holds no chain: it is damaged, or was written before there were any");
    }
    this.records.push({ path, json: { ...json, chain } });
    if (isSealed(text)) tell("sound");
    else tell("broken", "its bytes are not those that were written");
    for (const part of chain.outputs) await this.output(path, part);
    for (const part of chain.sources) await this.source(path, part, depth);
  }

  /** What a record made lies where it does. */
  private async output(record: string, part: ChainPart): Promise<void> {
    const folder = join(dirname(record), part.path);
    // Checkpoints come and go as room is needed; one that is there has to be whole.
    if (part.role === "checkpoint" && !(await isFolder(folder))) {
      this.tell({
        record,
        role: part.role,
        file: part.path,
        state: "not found",
        problem: "it has been removed",
      });
      return;
    }
    for (const file of part.files) await this.file(record, part, folder, file);
  }

  private async source(record: string, part: ChainPart, depth: number): Promise<void> {
    const folder = await this.placeOf(record, part);
    if (folder === undefined) {
      for (const { name } of part.files)
        this.tell({
          ...{ record, role: part.role, file: join(part.path, name), state: "not found" },
          problem: part.path.startsWith("memory:")
            ? "the rows were given as objects; --data F names a file of them"
            : `it is not there any more; ${flagFor(part.role)}`,
        });
      return;
    }
    for (const file of part.files) await this.file(record, part, folder, file);
    for (const name of Object.values(REPORT_FILES))
      if (await isFile(join(folder, name))) await this.record(join(folder, name), depth + 1);
    for (const { name } of part.files)
      if (/\.gguf$/i.test(name) && (await isFile(receiptPlace(join(folder, name)))))
        await this.record(receiptPlace(join(folder, name)), depth + 1);
  }

  /** The folder where a source lies now. */
  private async placeOf(record: string, part: ChainPart): Promise<string | undefined> {
    const { model, data } = this.options;
    const isModel = part.role === "model" || part.role === "base";
    if (isModel) {
      const name = part.role === "model" && model !== undefined ? model : part.path;
      const gguf = safely(() => locateGguf(name));
      if (gguf !== undefined) return dirname(gguf);
      const located = safely(() => locateModel(name));
      if (located !== undefined) return located;
    }
    if (isRows(part.role)) {
      const places = await Promise.all((data ?? []).map((each) => folderWith(each, part)));
      const place = places.find((each) => each !== undefined);
      if (place !== undefined) return place;
    }
    if (part.path.startsWith("memory:")) return undefined;
    // A relative path may be another's here; a folder that has none of the files is not the one.
    for (const folder of [part.path, join(dirname(record), part.path)])
      if ((await isFolder(folder)) && (await hasAny(folder, part))) return folder;
    return undefined;
  }

  private async file(
    record: string,
    { role }: ChainPart,
    folder: string,
    { name, bytes, sha256 }: ChainPart["files"][number],
  ): Promise<void> {
    if (--this.left < 0) throw new UserError(`${record}: its chain names more than ${filesCap} files`);
    const path = join(folder, name);
    const problem =
      sha256 === "changed" ? "it changed while the run trained on it" : await differs(path, bytes, sha256);
    this.tell({ record, role, file: path, state: problem === undefined ? "sound" : "broken", problem });
    if (name === sumsName && problem === undefined) await this.sums(record, role, folder);
  }

  /** The files that a list of sums beside them names. */
  private async sums(record: string, role: string, folder: string): Promise<void> {
    const text = (await readCapped(join(folder, sumsName), sumsCapBytes)) ?? "";
    for (const line of text.split("\n")) {
      const [, sha256, name] = /^([0-9a-f]{64}) {2}([\w.-]+)$/.exec(line) ?? [];
      if (sha256 === undefined || name === undefined) continue;
      const path = join(folder, name);
      const problem = await differs(path, undefined, sha256);
      this.tell({ record, role, file: path, state: problem === undefined ? "sound" : "broken", problem });
    }
  }

  private tell(link: Link): void {
    const { problem, ...rest } = link;
    const told = problem === undefined ? rest : link;
    this.links.push(told);
    this.options.onLink?.(told);
  }
}

const isRows = (role: string) => role === "data" || role === "eval-data" || role === "forget";

/** The folder of a place that a user named, where it is or holds what the part names. */
async function folderWith(place: string, part: ChainPart): Promise<string | undefined> {
  if (await isFolder(place)) return (await hasAny(place, part)) ? place : undefined;
  return part.files.every(({ name }) => name === basename(place)) ? dirname(place) : undefined;
}

async function hasAny(folder: string, { files }: ChainPart): Promise<boolean> {
  if (files.length === 0) return true;
  for (const { name } of files) if (await isFile(join(folder, name))) return true;
  return false;
}

const flagFor = (role: string) =>
  role === "model" || role === "base"
    ? "--model says where the model is now"
    : isRows(role)
      ? "--data says where the rows are now"
      : "put it back where it was";

async function differs(path: string, bytes: number | undefined, sha256: string): Promise<string | undefined> {
  const status = await stat(path).catch(() => undefined);
  if (!status) return "it is missing";
  if (bytes !== undefined && status.size !== bytes) return `it has ${status.size} bytes and had ${bytes}`;
  const found = await hashFile(path).catch((error: NodeJS.ErrnoException) => error);
  if (found instanceof Error) return `it cannot be read (${found.code})`;
  return found.sha256 === sha256 ? undefined : "its SHA-256 is another";
}

async function readCapped(path: string, cap: number): Promise<string | undefined> {
  const status = await stat(path).catch(() => undefined);
  if (!status?.isFile() || status.size > cap) return undefined;
  const bytes = await readFile(path).catch(() => undefined);
  // A byte that is no UTF-8 would be lost in reading, and with it a difference.
  return bytes?.equals(Buffer.from(bytes.toString("utf8"))) ? bytes.toString("utf8") : undefined;
}

function parsed(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

/** The chain, when it has the form of one and leads nowhere else. */
function chainIn({ chain }: Readonly<Record<string, unknown>>): Chain | undefined {
  const { version, sources, outputs, recipe } = (chain ?? {}) as Partial<Chain>;
  if (version !== 1 || !Array.isArray(sources) || !Array.isArray(outputs)) return undefined;
  if (recipe !== undefined && typeof recipe !== "string") return undefined;
  if (!sources.every(isPart) || !outputs.every((part) => isPart(part) && isInside(part.path)))
    return undefined;
  return chain as Chain;
}

function isPart(part: unknown): part is ChainPart {
  const { role, path, files } = (part ?? {}) as Partial<ChainPart>;
  if (typeof role !== "string" || typeof path !== "string" || path === "" || path.length > 4096) return false;
  if (path.includes("\0") || !Array.isArray(files)) return false;
  return files.every((file) => {
    const { name, bytes, sha256 } = (file ?? {}) as Partial<ChainPart["files"][number]>;
    const named = typeof name === "string" && name !== "." && isInside(name);
    return named && Number.isSafeInteger(bytes) && /^([0-9a-f]{64}|changed)$/.test(String(sha256));
  });
}

/** Relative, and below where it begins. */
function isInside(name: string): boolean {
  if (name === ".") return true;
  const parts = name.split("/");
  return (
    name.length <= 1024 &&
    !/[\\:\p{Cc}]/u.test(name) &&
    parts.every((part) => !["", ".", ".."].includes(part))
  );
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() === true;
}

async function isFolder(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() === true;
}

/** What a name leads to; nothing where it leads nowhere. */
function safely<T>(locate: () => T): T | undefined {
  try {
    return locate();
  } catch {
    return undefined;
  }
}
