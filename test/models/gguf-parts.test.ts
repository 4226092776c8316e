// A model in several GGUF files: read as the one file that they were, by the first one's name; parts that are missing, of
// another model or lie about themselves are refused by name. And where what is made of a file holds: from every folder, for
// lowrank's own folders alone.

import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/index.ts";
import { openFile } from "../../src/formats/disk.ts";
import { type GgufValue, openGguf } from "../../src/formats/gguf.ts";
import { ggufPartName, mostGgufParts } from "../../src/formats/gguf-parts.ts";
import { writeGguf } from "../../src/formats/gguf-writer.ts";
import { locateModel } from "../../src/formats/locate-model.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { unpackGguf } from "../../src/models/gguf/unpack.node.ts";
import { modelFiles } from "../../src/publish/chain.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { UserError } from "../../src/util/errors.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-gguf-parts-"));
const cache = process.env.LOWRANK_CACHE;
const tiny = fileURLToPath(new URL("../../models/tiny-base", import.meta.url));
const whole = join(root, "whole.gguf");
let backend: Backend;

beforeAll(async () => {
  process.env.LOWRANK_CACHE = join(root, "cache");
  backend = await openBackend("reference");
  await exportGguf(backend, { model: tiny, out: whole, type: "q8_0", adapterOnly: false, modelfile: false });
});
afterAll(() => {
  if (cache === undefined) delete process.env.LOWRANK_CACHE;
  else process.env.LOWRANK_CACHE = cache;
  rmSync(root, { recursive: true, force: true });
});

type Change = (part: number, metadata: Map<string, GgufValue>) => void;

let written = 0;

/** Cuts the whole file as gguf-split does, without tensors in the first part when asked; the first part's path. */
async function split(
  count: number,
  { bareFirst = false, change }: { bareFirst?: boolean; change?: Change } = {},
) {
  const file = await openGguf(await openFile(whole));
  const folder = join(root, `split-${written++}`);
  mkdirSync(folder);
  const names = [...file.tensors.keys()];
  const holders = bareFirst ? count - 1 : count;
  const each = Math.ceil(names.length / holders);
  for (let part = 0; part < count; part++) {
    const metadata = new Map(part === 0 ? file.metadata : []);
    metadata.set("split.no", { type: "u16", value: part });
    metadata.set("split.count", { type: "u16", value: count });
    metadata.set("split.tensors.count", { type: "i32", value: names.length });
    change?.(part, metadata);
    const at = bareFirst ? part - 1 : part;
    const own = at < 0 ? [] : names.slice(at * each, (at + 1) * each);
    const tensors = own.map((name) => {
      const { type, shape } = file.tensors.get(name)!;
      return { name, type, shape, data: () => file.readTensor(name) };
    });
    await writeGguf(partAt(folder, part + 1, count), metadata, tensors);
  }
  await file.close();
  return partAt(folder, 1, count);
}

const number = (n: number) => String(n).padStart(5, "0");
const partAt = (folder: string, part: number, count: number) =>
  join(folder, `m-${number(part)}-of-${number(count)}.gguf`);
const sibling = (first: string, part: number, count: number) => partAt(join(first, ".."), part, count);

async function refusal(path: string): Promise<string> {
  const error = await unpackGguf(path).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as Error).message;
}

async function opened(path: string) {
  await unpackGguf(path);
  return openModelFolder(locateModel(path));
}

describe("a model in several GGUF files", () => {
  it.each([
    ["tensors in all", 3, false],
    ["none in the first", 4, true],
  ])("is the model that the one file was: %s", async (_, count, bareFirst) => {
    const first = await split(count, { bareFirst });
    const [one, several] = await Promise.all([opened(whole), opened(first)]);
    expect(several.config).toEqual(one.config);
    expect([...several.tensors.keys()].sort()).toEqual([...one.tensors.keys()].sort());
    expect(several.weightBytes).toBe(one.weightBytes);
    for (const name of one.tensors.keys())
      expect(Buffer.compare(await several.read(name), await one.read(name)), name).toBe(0);
    // All of them are what it is made of.
    const { names } = await modelFiles(several);
    expect(names).toEqual(
      Array.from({ length: count }, (__, i) => `m-${number(i + 1)}-of-${number(count)}.gguf`),
    );
    // Tensors are read part after part.
    const offsets = [...several.tensors.values()].map(({ offset }) => offset);
    expect(offsets).toEqual([...offsets].sort((a, b) => a - b));
    expect(new Set(offsets).size).toBe(offsets.length);
    await one.close();
    await several.close();
  });

  it("is refused by name where parts are missing, and read when they are there", async () => {
    const first = await split(3);
    const second = sibling(first, 2, 3);
    renameSync(second, `${second}.away`);
    expect(await refusal(first)).toMatch(
      /1 of its 3 parts cannot be read: .*m-00002-of-00003\.gguf: there is no such file/,
    );
    renameSync(`${second}.away`, second);
    await unpackGguf(first);
    rmSync(second);
    await expect(async () => (await opened(first)).close()).rejects.toThrow(/m-00002-of-00003\.gguf/);
  });

  it("is read by its first part", async () => {
    const first = await split(3);
    expect(await refusal(sibling(first, 3, 3))).toMatch(
      /it is part 3 of 3 of a model; give the first, .*m-00001-of-00003\.gguf/,
    );
    const renamed = join(first, "..", "model.gguf");
    copyFileSync(first, renamed);
    expect(await refusal(renamed)).toMatch(/expected NAME-00001-of-00003\.gguf/);
  });

  it("is refused where a part is of another model, or says that it is another part", async () => {
    const first = await split(3);
    copyFileSync(first, sibling(first, 2, 3));
    expect(await refusal(first)).toMatch(
      /m-00002-of-00003\.gguf: expected part 2 of 3 .* says it is part 1 of 3/,
    );
    const twice = await split(3, {
      change: (part, metadata) => part === 2 && metadata.delete("split.no"),
    });
    expect(await refusal(twice)).toMatch(/m-00003-of-00003\.gguf: expected part 3 of 3 .* says it is none/);
    const less = await split(2, {
      change: (_, metadata) => metadata.set("split.tensors.count", { type: "i32", value: 500 }),
    });
    expect(await refusal(less)).toMatch(/2 parts have 500 tensors, and they have \d+/);
    const again = await split(2);
    const file = await openGguf(await openFile(again));
    const [name, { type, shape }] = [...file.tensors][0]!;
    await writeGguf(
      sibling(again, 2, 2),
      new Map<string, GgufValue>([
        ["split.no", { type: "u16", value: 1 }],
        ["split.count", { type: "u16", value: 2 }],
      ]),
      [{ name, type, shape, data: () => file.readTensor(name) }],
    );
    await file.close();
    expect(await refusal(again)).toMatch(
      /m-00002-of-00002\.gguf: tensor ".*" is in .*m-00001-of-00002\.gguf already/,
    );
  });

  it.each<[string, GgufValue, RegExp]>([
    [
      "more parts than are read",
      { type: "u16", value: 65535 },
      /part 1 of 65535; models of at most 512 parts/,
    ],
    ["no number", { type: "string", value: "3" }, /split\.count should be a whole number/],
    ["less than nothing", { type: "i32", value: -2 }, /split\.count should be a whole number/],
    ["no parts", { type: "u16", value: 0 }, /part 1 of 0/],
  ])("that promises %s is refused", async (_, value, message) => {
    const first = await split(2, { change: (__, metadata) => metadata.set("split.count", value) });
    expect(await refusal(first)).toMatch(message);
  });

  it("of one part is one file, whatever its name", async () => {
    const first = await split(1);
    const renamed = join(first, "..", "model.gguf");
    copyFileSync(first, renamed);
    await (await opened(renamed)).close();
    await (await opened(first)).close();
  });

  it("is opened anew when a part has changed", async () => {
    const first = await split(2);
    await unpackGguf(first);
    const before = locateModel(first);
    const second = sibling(first, 2, 2);
    const other = await split(2);
    copyFileSync(sibling(other, 2, 2), second);
    await unpackGguf(first);
    expect(locateModel(first)).not.toBe(before);
    await (await openModelFolder(locateModel(first))).close();
  });

  it("has names that promise no more parts than are read", () => {
    expect(ggufPartName("a/b-00002-of-00003.gguf")).toMatchObject({ part: 2, count: 3 });
    expect(ggufPartName("a/b-00002-of-00003.gguf")!.all[2]).toBe("a/b-00003-of-00003.gguf");
    for (const path of [
      "a.gguf",
      "b-00004-of-00003.gguf",
      "b-00000-of-00003.gguf",
      `b-00001-of-${number(mostGgufParts + 1)}.gguf`,
    ])
      expect(ggufPartName(path), path).toBeUndefined();
  });
});

describe("what is made of a GGUF file", () => {
  it("holds in another working folder and by another name", async () => {
    const name = relative(process.cwd(), join(root, "named.gguf"));
    copyFileSync(whole, name);
    await unpackGguf(name);
    const elsewhere = locateModel(join(root, "named.gguf"));
    expect(elsewhere).toBe(locateModel(name));
    const { files } = await openModelFolder(elsewhere);
    expect(files[0]!.source.name).toBe(join(root, "named.gguf"));
    await files[0]!.source.close();
    // A link may go while the file stays.
    const link = join(root, "link.gguf");
    symlinkSync(join(root, "named.gguf"), link);
    await (await opened(link)).close();
    rmSync(link);
    await (await opened(join(root, "named.gguf"))).close();
  });

  it("is believed in lowrank's cache alone", async () => {
    const stranger = join(root, "stranger");
    mkdirSync(stranger);
    writeFileSync(join(stranger, "config.json"), "{}");
    writeFileSync(join(stranger, "gguf.json"), JSON.stringify({ files: [{ path: whole, sizeBytes: 1 }] }));
    await expect(openModelFolder(stranger)).rejects.toThrow(
      /there are no weights: expected model\.safetensors/,
    );
  });
});
