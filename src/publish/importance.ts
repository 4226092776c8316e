// An importance matrix: how much each column of a model's matrices matters on a user's own texts, so that quantisers
// spend their levels there. Measured by running the model (with its adapter) over the texts, or read from llama.cpp's
// file. The sums are models/column-squares.ts's, the file formats/imatrix.ts's.

import { Tape } from "../autograd/tape.ts";
import type { Backend } from "../backend/backend.ts";
import { loadDataset } from "../data/dataset.node.ts";
import { openFile } from "../formats/disk.ts";
import { type ImportanceEntry, isImatrix, readImatrix, writeImatrix } from "../formats/imatrix.ts";
import { ColumnSquares } from "../models/column-squares.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { weightSpecs } from "../models/decoder-weights.ts";
import { orderColumns } from "../models/gguf/delta.ts";
import { ggufPieces } from "../models/gguf/names.ts";
import { openModel } from "../models/open-model.ts";
import { passOf } from "../models/token-logits.ts";
import { UserError } from "../util/errors.ts";
import type { Importance } from "./gguf-model.ts";

export interface ImportanceOptions {
  /** Rows of data, or an importance matrix of llama.cpp. */
  readonly source: string;
  /** Folders. */
  readonly model: string;
  readonly adapter?: string;
  readonly chatTemplate?: string;
  /** Where what is measured is written, for llama.cpp. */
  readonly writeTo?: string;
}

/** Tokens of a text that are read at most, as llama.cpp's chunks have. */
const chunkTokens = 512;
/** Tokens after which a mean changes no more. */
const enoughTokens = 256 * 1024;

/** Mean squares by name in GGUF. UserError when the source is neither data nor a matrix. */
export async function importanceOf(
  backend: Backend,
  options: ImportanceOptions,
  note: (message: string) => void,
): Promise<Importance> {
  const file = await openFile(options.source);
  try {
    if (await isImatrix(file)) {
      if (options.writeTo !== undefined) {
        throw new UserError(
          `--write-importance ${options.writeTo}: ${options.source} is an importance matrix already; give rows of data to --importance to measure one`,
        );
      }
      return await readImatrix(file);
    }
  } finally {
    await file.close();
  }
  const { entries, texts, tokens } = await measured(backend, options);
  note(`importance of columns measured on ${texts} rows, ${tokens} tokens of ${options.source}`);
  if (options.writeTo !== undefined) {
    await writeImatrix(options.writeTo, entries, {
      ...{ datasets: [options.source], chunks: texts, chunkSize: chunkTokens },
    });
  }
  return new Map(entries.map(({ name, sums, counts }) => [name, means(sums, counts)]));
}

function means(sums: Float32Array, counts: Float64Array): Float32Array {
  const width = sums.length / counts.length;
  // As a reader of the file has them: what nothing came by counts as 1.
  return sums.map((sum, i) => {
    const count = counts[Math.floor(i / width)]!;
    return count > 0 ? sum / count : 1;
  });
}

async function measured(
  backend: Backend,
  { source, model, adapter, chatTemplate }: ImportanceOptions,
): Promise<{ entries: ImportanceEntry[]; texts: number; tokens: number }> {
  await using opened = await openModel(backend, model, { adapter, text: { adapter, chatTemplate } });
  const { decoder } = opened.loaded;
  const { samples } = await loadDataset(source, {
    tokenizer: opened.tokenizer,
    template: opened.text.template,
    sequenceLength: Math.max(2, Math.min(chunkTokens, opened.config.maxPositions)),
    overLength: "truncate",
  });
  using squares = new ColumnSquares(backend);
  let tokens = 0;
  let texts = 0;
  for (const { ids } of samples) {
    if (tokens >= enoughTokens) break;
    using tape = new Tape(backend, false);
    const pass = squares.pass(tape);
    await passOf(decoder, tape, [...ids], { observe: pass.observe }, async (hidden) => {
      tape.run([hidden, ...pass.kept()]);
      await pass.read();
    });
    tokens += ids.length;
    texts++;
  }
  if (texts === 0) throw new UserError(`${source}: no rows to measure the importance of columns on`);
  return { entries: underGgufNames(opened.config, await squares.layers()), texts, tokens };
}

/** Layers' sums as tensors of GGUF have them: under its names, columns in its order. */
function underGgufNames(config: DecoderConfig, layers: readonly ImportanceEntry[]): ImportanceEntry[] {
  const specs = new Map(weightSpecs(config).map((spec) => [spec.name, spec]));
  return layers.flatMap(({ name, sums, counts }) => {
    // Experts' layers are named as their tensors are, others without ".weight". What is no weight of its own has no tensor.
    const spec = specs.get(name) ?? specs.get(`${name}.weight`);
    if (!spec) return [];
    const ordered = spec.kind === "experts" ? sums : orderColumns(config, spec, sums);
    return ggufPieces(config, spec).map((piece) => ({ name: piece.name, sums: ordered, counts }));
  });
}
