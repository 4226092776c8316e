// A GGUF file becomes a base: what its metadata says is written as the small files of a model folder (config.json,
// tokenizer.json, ...), with a table of where its weights lie (formats/gguf-folder.ts), once for each file, in lowrank's
// cache. From then on it is opened as any folder is; its weights stay where they are.

import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { writeProblem } from "../../formats/atomic-file.ts";
import { openFile } from "../../formats/disk.ts";
import type { GgufFile } from "../../formats/gguf.ts";
import { GGUF_TABLE_FILE, type GgufPlace, type GgufTable } from "../../formats/gguf-folder.ts";
import { openWholeGguf } from "../../formats/gguf-parts.ts";
import { ggufPlace } from "../../formats/gguf-place.ts";
import { makeFolder } from "../../formats/make-folder.ts";
import { UserError } from "../../util/errors.ts";
import type { DecoderConfig, Json } from "../decoder-config.ts";
import { embeddingName, headName, type WeightSpec, weightSpecs } from "../decoder-weights.ts";
import { readModelConfig } from "../index.ts";
import { configOfGguf } from "./config.ts";
import { columnOrder, isDecay, rowRanges } from "./delta.ts";
import { type GgufPiece, ggufName, ggufPieces, interleavedRows, rowWidth } from "./names.ts";
import { tokenizerOfGguf } from "./tokenizer.ts";

/** Makes the folder of a GGUF file where it is not there yet. UserError for what cannot be a base. */
export async function unpackGguf(path: string): Promise<void> {
  const { folder, made, spare } = ggufPlace(path);
  if (made) return;
  const opened = await openWholeGguf(path, openFile);
  try {
    const config = await configOfGguf(opened);
    const { tokenizer, tokenizerConfig, ends } = tokenizerOfGguf(opened);
    const decoder = readConfig(path, config);
    // The next command may run in another folder.
    const files = opened.files.map(({ name, size }) => ({ path: resolve(name), sizeBytes: size }));
    const table: GgufTable = { files, weights: placesOf(opened, decoder) };
    const small = {
      "config.json": config,
      "generation_config.json": { eos_token_id: ends },
      "tokenizer.json": tokenizer,
      "tokenizer_config.json": tokenizerConfig,
      [GGUF_TABLE_FILE]: table,
    };
    const texts = Object.entries(small).map(([name, value]) => [name, JSON.stringify(value)] as const);
    const isMade = () => ggufPlace(path).made;
    await putInPlace(folder, texts).catch(async (error: unknown) => {
      // A cache that cannot be written is no reason not to read.
      if (isMade()) return;
      if (spare === undefined) throw error;
      await putInPlace(spare, texts).catch(() => {
        if (!isMade()) throw error;
      });
    });
  } finally {
    await opened.close();
  }
}

/** Whole or not at all. Who comes second finds the same there, so nobody waits for anybody. */
async function putInPlace(folder: string, texts: readonly (readonly [string, string])[]): Promise<void> {
  let staged: string | undefined;
  try {
    await makeFolder(dirname(folder));
    staged = await mkdtemp(join(dirname(folder), `.${basename(folder)}.`));
    for (const [name, text] of texts) await writeFile(join(staged, name), text);
    await rename(staged, folder);
  } catch (error) {
    if (staged !== undefined) await rm(staged, { recursive: true, force: true });
    throw writeProblem(error, folder);
  }
}

/** The reader's complaints are of a config.json that the user never wrote. */
function readConfig(path: string, config: Json): DecoderConfig {
  try {
    return readModelConfig(config);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(`${path}: of its metadata, read as ${error.message}`);
  }
}

/** Where each weight lies. UserError for tensors of other shapes than the configuration has. */
function placesOf(file: GgufFile, config: DecoderConfig): GgufPlace[] {
  const known = new Set<string>();
  const places = weightSpecs(config).flatMap((spec): GgufPlace[] => {
    const pieces = ggufPieces(config, spec);
    for (const { name } of pieces) known.add(name);
    // What a checkpoint may leave out (a bias) is left out of the file as well, and missing ones are told when loading.
    if (pieces.every(({ name }) => !file.tensors.has(name))) return [];
    const interleaved = interleavedRows(config, spec);
    const columns = columnOrder(config, spec);
    return [
      {
        ...{ name: spec.name, shape: spec.shape, width: rowWidth(spec) },
        parts: pieces.map(({ name, rows }) => ({
          tensor: name,
          rows: stretches(config, spec, rows).map(({ begin, end }) => [begin, end] as const),
        })),
        ...(interleaved.rows > 0 ? { interleaved } : {}),
        ...(spec.shifted && config.normShift !== 0 ? { shift: config.normShift } : {}),
        ...(columns ? { columns } : {}),
        ...(isDecay(spec) ? { decays: true } : {}),
      },
    ];
  });
  known.add(`${ggufName(config, headSpec(config))}`);
  const { metadata } = file;
  const guesses = metadata.has(`${metadata.get("general.architecture")?.value}.nextn_predict_layers`);
  const strange = [...file.tensors.keys()].filter(
    (name) => !known.has(name) && !/^rope_/.test(name) && !(guesses && isBeyond(name, config.layers.length)),
  );
  if (strange.length > 0) {
    throw new UserError(
      `${file.path}: ${strange.length} tensors have no place in a ${config.modelType} model: ${strange.slice(0, 3).join(", ")}; it is of a variant that is not read from GGUF`,
    );
  }
  return places;
}

/** Rows of a tensor in the file's order: those of a whole weight may be heads in another. */
function stretches(config: DecoderConfig, spec: WeightSpec, rows: GgufPiece["rows"]): GgufPiece["rows"] {
  const [first] = rows;
  const whole = rows.length === 1 && first!.begin === 0 && first!.end === spec.shape[0];
  return whole ? rowRanges(config, spec) : rows;
}

/** Layers that guess further tokens lie behind the model's own. */
function isBeyond(name: string, layers: number): boolean {
  const layer = /^blk\.(\d+)\./.exec(name)?.[1];
  return layer !== undefined && Number(layer) >= layers;
}

function headSpec(config: DecoderConfig): WeightSpec {
  return {
    ...weightSpecs(config).find(({ name }) => name === `${embeddingName}.weight`)!,
    name: `${headName}.weight`,
  };
}
