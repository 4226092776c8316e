// Makes a model folder of true size and random weights from a config.json: for load, memory and speed tests of shapes
// whose real weights are not at hand. bf16, sharded, with a byte-level tokenizer; equal seeds give equal bytes.
// Tensors are made on the CPU backend, all cores, 64 MiB at a time. Usage:
//   node tools/make-random-model.mjs CONFIG.json OUT_DIR [SEED] [--shard-bytes N]
// Needs the built package (npm install). Not a model: it predicts noise.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { openBackend } from "../dist/backend/index.js";
import { writeModelFolder } from "../dist/formats/model-folder-writer.js";
import { weightSpecs } from "../dist/models/decoder-weights.js";
import { readModelConfig } from "../dist/models/index.js";
import { storedParts } from "../dist/models/stored-parts.js";
import { viewOf } from "../dist/tensor/tensor.js";
import {
  byteCharacters,
  SPECIAL_TOKENS,
  tokenizerConfig,
  tokenizerJson,
} from "./make-tiny-base/train-bpe.mjs";

/** Standard deviation 0.02 as usual: a uniform's is bound / sqrt(3). */
const BOUND = 0.02 * Math.sqrt(3);
const PIECE_ELEMENTS = 32 * 2 ** 20;
/** Random streams of one tensor; larger tensors than this many pieces do not exist. */
const STREAMS_PER_TENSOR = 4096;

/** Writes the folder and returns its number of parameters. */
export async function makeRandomModel(configJson, outDir, seed = 1, shardBytes = undefined) {
  const config = readModelConfig(configJson);
  const specs = weightSpecs(config);
  // Experts are tensors of their own where files have them so.
  const parts = specs.flatMap((spec) => storedParts({ storedName: (name) => name }, config, spec));
  const backend = await openBackend("cpu", { precision: "fp32" });
  const buffer = backend.allocate(2 * PIECE_ELEMENTS, "workspace");
  try {
    const tensors = parts.map(({ name, shape }, index) => ({
      name,
      dtype: "BF16",
      shape,
      data: () => pieces(backend, buffer, name, shape, index, seed),
    }));
    const { quantization_config: _, torch_dtype: __, dtype: ___, ...json } = configJson;
    mkdirSync(outDir, { recursive: true });
    await writeModelFolder(outDir, { config: { ...json, torch_dtype: "bfloat16" }, tensors }, { shardBytes });
    writeTokenizer(configJson, outDir);
  } finally {
    backend.close();
  }
  return specs.reduce((sum, { shape }) => sum + countOf(shape), 0);
}

async function* pieces(backend, buffer, name, shape, index, seed) {
  const count = countOf(shape);
  for (let start = 0, piece = 0; start < count; start += PIECE_ELEMENTS, piece++) {
    const n = Math.min(PIECE_ELEMENTS, count - start);
    if (shape.length === 1) {
      const one = name.endsWith(".bias") ? 0 : 0x3f80; // bf16 bits of 0 and 1
      yield new Uint8Array(new Uint16Array(n).fill(one).buffer);
      continue;
    }
    backend.fillUniform({
      y: viewOf(buffer, [n], "bf16"),
      bound: BOUND,
      seed,
      stream: index * STREAMS_PER_TENSOR + piece,
    });
    yield await backend.read(buffer, 0, 2 * n);
  }
}

/** 6 special tokens and the 256 bytes: the embedding's further rows are never used. */
function writeTokenizer(config, outDir) {
  const tokens = [...SPECIAL_TOKENS, ...byteCharacters().sort()];
  if (tokens.length > config.vocab_size) {
    throw new Error(
      `vocab_size ${config.vocab_size} has no room for the ${tokens.length} tokens of the byte-level tokenizer`,
    );
  }
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const write = (name, json) => writeFileSync(join(outDir, name), `${JSON.stringify(json, null, 1)}\n`);
  write("tokenizer.json", tokenizerJson({ vocab, merges: [] }));
  write("tokenizer_config.json", tokenizerConfig(config.max_position_embeddings));
}

function countOf(shape) {
  return shape.reduce((a, b) => a * b, 1);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { "shard-bytes": { type: "string" } },
  });
  const [configPath, outDir, seed = "1"] = positionals;
  if (configPath === undefined || outDir === undefined) {
    console.error("Usage: node tools/make-random-model.mjs CONFIG.json OUT_DIR [SEED] [--shard-bytes N]");
    process.exit(2);
  }
  const shardBytes = values["shard-bytes"] === undefined ? undefined : Number(values["shard-bytes"]);
  const config = JSON.parse(readFileSync(configPath, "utf8"));
  const startedAt = performance.now();
  const count = await makeRandomModel(config, outDir, Number(seed), shardBytes);
  console.log(`${count} parameters -> ${outDir} in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
}
