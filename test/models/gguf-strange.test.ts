// GGUF files whose metadata is strange: read where llama.cpp's meaning is plain, else refused by a sentence that names the
// file, whatever type a value has and however much it promises. And where what is made of a file is kept.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { openFile } from "../../src/formats/disk.ts";
import { type GgufValue, openGguf } from "../../src/formats/gguf.ts";
import { ggufPlace } from "../../src/formats/gguf-place.ts";
import { writeGguf } from "../../src/formats/gguf-writer.ts";
import { openModelFolder } from "../../src/formats/model-folder.ts";
import { unpackGguf } from "../../src/models/gguf/unpack.node.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { UserError } from "../../src/util/errors.ts";
import { writeTinyModel } from "../publish/tiny-model.ts";

const root = mkdtempSync(join(tmpdir(), "lowrank-gguf-strange-"));
const before = { cache: process.env.LOWRANK_CACHE, tmp: process.env.TMPDIR };
const whole = join(root, "whole.gguf");

beforeAll(async () => {
  process.env.LOWRANK_CACHE = join(root, "cache");
  process.env.TMPDIR = join(root, "temporary");
  mkdirSync(process.env.TMPDIR);
  const backend = await openBackend("reference");
  const model = writeTinyModel(join(root, "model"));
  const options = { adapterOnly: false, modelfile: false, preTokenizer: "gpt-2" };
  await exportGguf(backend, { ...options, model, out: whole, type: "f32" });
  backend.close();
});
afterAll(() => {
  for (const [name, value] of [
    ["LOWRANK_CACHE", before.cache],
    ["TMPDIR", before.tmp],
  ] as const) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
  rmSync(root, { recursive: true, force: true });
});

let written = 0;

/** The whole file with other metadata; undefined takes a key away. */
async function changed(entries: Readonly<Record<string, GgufValue | undefined>>): Promise<string> {
  const file = await openGguf(await openFile(whole));
  const metadata = new Map(file.metadata);
  for (const [key, value] of Object.entries(entries)) {
    if (value === undefined) metadata.delete(key);
    else metadata.set(key, value);
  }
  const path = join(root, `changed-${written++}.gguf`);
  await writeGguf(
    path,
    metadata,
    [...file.tensors.values()].map(({ name, type, shape }) => ({
      ...{ name, type, shape },
      data: () => file.readTensor(name),
    })),
  );
  await file.close();
  return path;
}

const refusal = async (path: string): Promise<string> => {
  const error = await unpackGguf(path).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  expect((error as Error).message).toContain(path);
  return (error as Error).message;
};

const u32 = (value: number): GgufValue => ({ type: "u32", value });

describe("a GGUF file's metadata", () => {
  it("may count in integers of 64 bits", async () => {
    const file = await openGguf(await openFile(whole));
    const wide = Object.fromEntries(
      [...file.metadata].flatMap(([key, { type, value }]) =>
        key.startsWith("llama.") && type === "u32"
          ? [[key, { type: "u64", value: BigInt(value as number) } as const]]
          : [],
      ),
    );
    await file.close();
    expect(Object.keys(wide).length).toBeGreaterThan(5);
    const path = await changed(wide);
    await unpackGguf(path);
    await unpackGguf(whole);
    const configs = await Promise.all(
      [path, whole].map(async (each) => {
        const folder = await openModelFolder(ggufPlace(each).folder);
        await folder.close();
        return folder.config;
      }),
    );
    expect(configs[0]).toEqual(configs[1]);
  });

  const hostile: readonly GgufValue[] = [
    ...[0, 3, 2 ** 31 - 1, 2 ** 32 - 1].map(u32),
    { type: "i32", value: -1 },
    ...[Number.NaN, Number.POSITIVE_INFINITY, 0.5, 1e30].map((value) => ({ type: "f32", value }) as const),
    ...[5n, 2n ** 63n].map((value) => ({ type: "u64", value }) as const),
    { type: "string", value: "x" },
    { type: "bool", value: true },
    { type: "array", of: "u32", value: [] },
    { type: "array", of: "u64", value: [5n, 5n] },
    { type: "array", of: "u64", value: [5n, 6n] },
    { type: "array", of: "string", value: ["a"] },
  ];

  it("may be of any type and size under any key: it is read or refused", async () => {
    const file = await openGguf(await openFile(whole));
    const keys = [
      ...file.metadata.keys(),
      "llama.nextn_predict_layers",
      "llama.expert_count",
      "llama.rope.scaling.factor",
    ];
    await file.close();
    for (const key of keys) {
      for (const value of hostile) {
        const path = await changed({ [key]: value });
        await unpackGguf(path).catch((error: unknown) => {
          expect(error, `${key} ${String(value.value)}`).toBeInstanceOf(UserError);
        });
        rmSync(path);
      }
    }
  });

  it.each(["llama", "gemma2", "gemma3", "gemma4", "lfm2", "exaone4", "qwen35", "gpt-oss"])(
    "has as many layers of %s as it has tensors at most",
    async (of) => {
      const file = await openGguf(await openFile(whole));
      const renamed = [...file.metadata].flatMap(([key, value]) =>
        key.startsWith("llama.") ? [[`${of}.${key.slice("llama.".length)}`, value] as const] : [],
      );
      await file.close();
      const path = await changed({
        ...Object.fromEntries(renamed),
        "general.architecture": { type: "string", value: of },
        [`${of}.block_count`]: u32(2 ** 32 - 1),
      });
      expect(await refusal(path)).toMatch(/block_count is 4294967295; expected a whole number of layers/);
    },
  );

  it("may name an architecture that is not read, and is refused by its name", async () => {
    const path = await changed({ "general.architecture": { type: "string", value: "bert" } });
    expect(await refusal(path)).toMatch(/architecture "bert" cannot be a base; supported are llama/);
  });

  it("that makes no configuration is refused by the file's name", async () => {
    expect(await refusal(await changed({ "llama.embedding_length": u32(2 ** 30) }))).toMatch(
      /of its metadata, read as config\.json: "hidden_size"/,
    );
  });

  it("of pieces that are made of each other in endless ways is refused before they are written down", async () => {
    const file = await openGguf(await openFile(whole));
    const count = (file.metadata.get("tokenizer.ggml.tokens")!.value as readonly unknown[]).length;
    await file.close();
    const spm = (pieces: readonly string[], scores: readonly number[]) =>
      changed({
        "tokenizer.ggml.model": { type: "string", value: "llama" },
        "tokenizer.ggml.tokens": { type: "array", of: "string", value: pieces },
        "tokenizer.ggml.token_type": { type: "array", of: "i32", value: pieces.map(() => 1) },
        "tokenizer.ggml.scores": { type: "array", of: "f32", value: scores },
      });
    const runs = Array.from({ length: count }, (_, i) => "a".repeat(i < 4 ? i + 1 : 4000 + i));
    const grown = Array.from({ length: 1200 }, (_, i) => "a".repeat(i + 1));
    const scores = (pieces: readonly string[]) => pieces.map((_, i) => -i);
    for (const pieces of [runs, grown])
      expect(await refusal(await spm(pieces, scores(pieces)))).toMatch(/pieces are too long/);
    const short = grown.slice(0, count);
    await unpackGguf(await spm(short, scores(short)));
    await unpackGguf(
      await spm(
        short,
        short.map(() => Number.NaN),
      ),
    );
  });

  it("gives no beginning and no end that is no token's number", async () => {
    const path = await changed({ "tokenizer.ggml.bos_token_id": { type: "string", value: "<s>" } });
    await unpackGguf(path);
    const folder = await openModelFolder(ggufPlace(path).folder);
    await folder.close();
    expect(folder.config.bos_token_id).toBeUndefined();
  });
});

describe("what is made of a GGUF file", () => {
  it("is kept among temporary files where the cache cannot be written", async () => {
    const path = await changed({});
    const blocked = join(root, "a-file");
    writeFileSync(blocked, "");
    const cache = process.env.LOWRANK_CACHE;
    process.env.LOWRANK_CACHE = join(blocked, "cache");
    try {
      await unpackGguf(path);
      const { folder, made } = ggufPlace(path);
      expect(made).toBe(true);
      expect(folder.startsWith(join(root, "temporary"))).toBe(true);
      await unpackGguf(path);
    } finally {
      process.env.LOWRANK_CACHE = cache;
    }
  });

  it("is made once by many at the same time", async () => {
    const path = await changed({});
    await Promise.all(Array.from({ length: 16 }, () => unpackGguf(path)));
    const { folder } = ggufPlace(path);
    expect(readdirSync(folder)).toContain("config.json");
    expect(readdirSync(join(folder, "..")).filter((name) => name.startsWith("."))).toEqual([]);
  });

  it("has no place where there is no file", async () => {
    const gone = join(root, "gone.gguf");
    expect(existsSync(gone)).toBe(false);
    expect(await refusal(gone)).toMatch(/there is no such file/);
  });
});
