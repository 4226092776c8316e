// A GGUF model in several files, as llama.cpp's gguf-split cuts them: NAME-00001-of-00003.gguf and so on. The first holds
// the metadata (and perhaps no tensors), each the tensors that are its own; all say which part they are:
//
//   split.no u16, from 0 | split.count u16 | split.tensors.count i32, of all parts
//
// They are read as one file, whose tensors lie end to end. Not here: what is in a file (gguf.ts). Format: llama.cpp,
// tools/gguf-split.

import { UserError } from "../util/errors.ts";
import type { ByteSource } from "./byte-source.ts";
import { type GgufFile, type GgufTensor, openGguf } from "./gguf.ts";

/** Public models have up to a hundred parts; each is a file that is kept open. */
export const mostGgufParts = 512;

export interface GgufPartName {
  /** From 1. */
  readonly part: number;
  readonly count: number;
  /** Names of all parts, in order. */
  readonly all: readonly string[];
}

/** What a path says of the part that it is; undefined where it is named like no part. */
export function ggufPartName(path: string): GgufPartName | undefined {
  const [, before, no, of, ending] = /^(.*-)(\d{5})-of-(\d{5})(\.gguf)$/is.exec(path) ?? [];
  const [part, count] = [Number(no), Number(of)];
  if (no === undefined || part < 1 || part > count || count > mostGgufParts) return undefined;
  const all = Array.from(
    { length: count },
    (_, i) => `${before}${String(i + 1).padStart(5, "0")}-of-${of}${ending}`,
  );
  return { part, count, all };
}

/** Opens a file, and with the first of several parts the others, which lie beside it. UserError where one is not as it should be. */
export async function openWholeGguf(
  path: string,
  open: (path: string) => Promise<ByteSource>,
): Promise<GgufFile> {
  const first = await openGguf(await open(path));
  const parts = [first];
  try {
    const count = splitNumber(first, "count") ?? 1;
    if (count === 1) return first;
    const names = namesOf(first, count);
    const missing: string[] = [];
    for (const name of names.slice(1)) {
      const source = await open(name).catch((error: unknown) => {
        if (!(error instanceof UserError)) throw error;
        missing.push(error.message);
      });
      if (source) parts.push(await openGguf(source));
    }
    if (missing.length > 0) {
      throw new UserError(
        `${path}: ${missing.length} of its ${count} parts cannot be read: ${missing.slice(0, 3).join("; ")}${missing.length > 3 ? "; ..." : ""}. All parts must lie beside the first`,
      );
    }
    return joined(parts, count);
  } catch (error) {
    await Promise.all(parts.map((part) => part.close()));
    throw error;
  }
}

function splitNumber({ path, metadata }: GgufFile, name: string): number | undefined {
  const found = metadata.get(`split.${name}`);
  if (found === undefined) return undefined;
  const { value } = found;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0) return value;
  throw new UserError(`${path}: metadata split.${name} should be a whole number`);
}

/** Where the parts are, by the first one's name. */
function namesOf({ path, metadata }: GgufFile, count: number): readonly string[] {
  const part = 1 + (splitNumber({ path, metadata } as GgufFile, "no") ?? 0);
  if (count > mostGgufParts || part > count)
    throw new UserError(
      `${path}: it says that it is part ${part} of ${count}; models of at most ${mostGgufParts} parts are read`,
    );
  const named = ggufPartName(path);
  const number = (n: number) => String(n).padStart(5, "0");
  if (!named || named.part !== part || named.count !== count) {
    throw new UserError(
      `${path}: it is part ${part} of ${count} of a model, and the others are found by its name: expected NAME-${number(part)}-of-${number(count)}.gguf, as it was called where it comes from`,
    );
  }
  if (part !== 1)
    throw new UserError(
      `${path}: it is part ${part} of ${count} of a model; give the first, ${named.all[0]}`,
    );
  return named.all;
}

function joined(parts: readonly GgufFile[], count: number): GgufFile {
  const [first] = parts as [GgufFile, ...GgufFile[]];
  const partOf = new Map<string, GgufFile>();
  const tensors = new Map<string, GgufTensor>();
  let before = 0;
  for (const [i, part] of parts.entries()) {
    const [no, of] = [splitNumber(part, "no"), splitNumber(part, "count")];
    if (no !== i || of !== count) {
      const found = no === undefined || of === undefined ? "none" : `part ${no + 1} of ${of}`;
      throw new UserError(
        `${part.path}: expected part ${i + 1} of ${count} of the model in ${first.path}, and it says it is ${found}; fetch the parts again`,
      );
    }
    for (const [name, tensor] of part.tensors) {
      const other = partOf.get(name);
      if (other) throw new UserError(`${part.path}: tensor "${name}" is in ${other.path} already`);
      partOf.set(name, part);
      tensors.set(name, { ...tensor, offset: before + tensor.offset });
    }
    before += part.files[0]!.size;
  }
  const expected = splitNumber(first, "tensors.count");
  if (expected !== undefined && expected !== tensors.size) {
    throw new UserError(
      `${first.path}: it says that its ${count} parts have ${expected} tensors, and they have ${tensors.size}: they are not of one model; fetch them again`,
    );
  }
  const holderOf = (name: string) => partOf.get(name) ?? first;
  return {
    ...{ path: first.path, version: first.version, metadata: first.metadata, tensors },
    files: parts.flatMap(({ files }) => files),
    readTensor: (name) => holderOf(name).readTensor(name),
    readRange: (name, begin, length) => holderOf(name).readRange(name, begin, length),
    async close() {
      await Promise.all(parts.map((part) => part.close()));
    },
  };
}
