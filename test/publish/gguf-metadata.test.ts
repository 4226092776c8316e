// The files of `export` beside those of llama.cpp's own converter, key by key and tensor by tensor, for a tiny model of
// each architecture with a real tokenizer. The converter's side is a golden: tools/golden/gguf_metadata.py. Where the
// two differ, this file says why.

import { createHash } from "node:crypto";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { openFile } from "../../src/formats/disk.ts";
import { type GgufValue, openGguf } from "../../src/formats/gguf.ts";
import { exportGguf } from "../../src/publish/export-gguf.ts";
import { loadModelGolden, writeModelFolder } from "../golden/load-golden.ts";
import { asset, hasAssets, WITHOUT } from "../text/assets.ts";
import { scratchFolder } from "./tiny-model.ts";

interface Case {
  readonly tokenizer: string;
  /** A folder of tokenizers that has the file, or its content. */
  readonly tokenizerConfig: string | object;
  readonly vocabularySize: number;
  readonly metadata: Readonly<Record<string, Described>>;
  readonly tensors: Readonly<Record<string, { type: string; shape: number[]; sha256: string }>>;
}
type Described = Readonly<Record<string, unknown>>;

const goldenPath = join(import.meta.dirname, "../golden/gguf-metadata.json");
const { cases } = JSON.parse(readFileSync(goldenPath, "utf8")) as { cases: Record<string, Case> };

/** Ours alone. Each says what llama.cpp assumes where the key is absent, or what it would have to work out. */
const onlyOurs: Record<string, (architecture: string) => boolean> = {
  // False in both kinds of tokenizer.
  "tokenizer.ggml.add_eos_token": () => true,
  // True for SentencePiece. The converter leaves it out when it reads tokenizer.model.
  "tokenizer.ggml.add_space_prefix": (architecture) => architecture === "llama",
  // Width by heads. The converter writes them where config.json has a head_dim.
  "qwen2.attention.key_length": () => true,
  "qwen2.attention.value_length": () => true,
};

/** The converter's alone: false, which is what llama.cpp assumes, whenever the tokenizer has a template of pairs. */
const onlyTheirs = new Set(["tokenizer.ggml.add_sep_token"]);

/**
 * Of equal type and length but other values: ours are ranks of merges, as tokenizer.json has no scores; theirs come from
 * tokenizer.model. Only their order matters to llama.cpp: test/publish/export-gguf.test.ts compares its tokens.
 */
const otherValues = new Set(["tokenizer.ggml.scores"]);

const root = scratchFolder();

function writeFolder(name: string, { tokenizer, tokenizerConfig, vocabularySize }: Case): string {
  const { seed, tensors, config, configTransformers4 } = loadModelGolden(name);
  const folder = join(root, name);
  const named = { vocab_size: vocabularySize };
  writeModelFolder(
    {
      seed,
      tensors: tensors.map((tensor) => ({
        name: tensor.name,
        shape: tensor.shape.map((size) => (size === config.vocab_size ? vocabularySize : size)),
      })),
      config: { ...config, ...named },
      configTransformers4: { ...configTransformers4, ...named },
    },
    folder,
  );
  copyFileSync(asset(`tokenizers/${tokenizer}/derived/tokenizer.json`), join(folder, "tokenizer.json"));
  const configPath = join(folder, "tokenizer_config.json");
  if (typeof tokenizerConfig !== "string") writeFileSync(configPath, JSON.stringify(tokenizerConfig));
  else writeFileSync(configPath, readFileSync(asset(`tokenizers/${tokenizerConfig}/tokenizer_config.json`)));
  return folder;
}

const sha256 = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest("hex");
const typeNames: Record<string, string> = { u32: "uint32", i32: "int32", f32: "float32" };
const typeName = (type: string) => typeNames[type] ?? type;

/** A value as the golden describes it. */
function described(value: GgufValue): Described {
  if (value.type === "array") {
    const digest = sha256(JSON.stringify(value.value));
    return { type: "array", of: typeName(value.of), length: value.value.length, sha256: digest };
  }
  const type = typeName(value.type);
  if (typeof value.value === "string" && value.value.length > 100)
    return { type, length: value.value.length, sha256: sha256(JSON.stringify(value.value)) };
  return { type, value: value.value };
}

describe.skipIf(!hasAssets)(
  `GGUF as llama.cpp's converter writes it${hasAssets ? "" : ` (${WITHOUT})`}`,
  () => {
    it.each(Object.entries(cases))(
      "%s",
      async (name, wanted) => {
        const out = join(root, `${name}.gguf`);
        const backend = await openBackend("reference");
        const given = {
          model: writeFolder(name, wanted),
          type: "f32",
          adapterOnly: false,
          modelfile: false,
        } as const;
        await exportGguf(backend, { ...given, out });
        const file = await openGguf(await openFile(out));
        const ours = new Map([...file.metadata].map(([key, value]) => [key, described(value)]));
        const architecture = String(ours.get("general.architecture")!.value);

        const keysOfOurs = [...ours.keys()].filter((key) => !onlyOurs[key]?.(architecture)).sort();
        const keysOfTheirs = Object.keys(wanted.metadata).filter(
          (key) => !onlyTheirs.has(key) && !onlyOurs[key]?.(architecture),
        );
        expect(keysOfOurs).toEqual(keysOfTheirs.sort());
        for (const key of onlyTheirs) expect(wanted.metadata[key]?.value ?? false).toBe(false);
        for (const [key, value] of Object.entries(wanted.metadata)) {
          const mine = ours.get(key);
          if (!mine) continue;
          if (otherValues.has(key)) expect({ ...mine, sha256: "" }, key).toEqual({ ...value, sha256: "" });
          else if (key === "general.name") expect(mine.type).toBe(value.type);
          else expect(mine, key).toEqual(value);
        }

        expect([...file.tensors.keys()].sort()).toEqual(Object.keys(wanted.tensors).sort());
        for (const [tensor, { sha256: digest, ...rest }] of Object.entries(wanted.tensors)) {
          const { type, shape } = file.tensors.get(tensor)!;
          expect({ type, shape: [...shape] }, tensor).toEqual(rest);
          // Computed on both sides: a digit may differ.
          if (tensor !== "rope_freqs.weight")
            expect(sha256(await file.readTensor(tensor)), tensor).toBe(digest);
        }
        await file.close();
        backend.close();
      },
      120_000,
    );
  },
);
