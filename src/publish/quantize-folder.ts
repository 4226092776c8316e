// A model folder to a bitsandbytes folder: the linear weights of the blocks in 4 bits, everything else as it is. One
// tensor at a time goes through the device's quantize4bit kernel, so that memory does not grow with the model; each is
// also sampled for the report. Which weights: weights-to-quantize.ts. Not here: the arithmetic (quant/), the tensors' form
// (formats/bnb.ts).

import { join } from "node:path";
import type { Backend } from "../backend/backend.ts";
import { writeFileAtomic } from "../formats/atomic-file.ts";
import { bnbSpecs, bnbTensors, type StoredDType } from "../formats/bnb.ts";
import { type BnbQuantType, toQuantizationConfig } from "../formats/bnb-config.ts";
import { type JsonObject, jsonText } from "../formats/json.ts";
import { CONFIG_FILE, INDEX_FILE, type ModelFolder, openModelFolder } from "../formats/model-folder.ts";
import { indexOf, SHARD_BYTES, shardNames } from "../formats/model-folder-writer.ts";
import { fromSafetensorsDType, safetensorsDTypeBytes, type TensorEntry } from "../formats/safetensors.ts";
import { ScatterFile } from "../formats/safetensors-scatter.ts";
import { type TensorSpec, tensorBytesOf } from "../formats/safetensors-writer.ts";
import { copySideFiles } from "../formats/side-files.ts";
import { stageFolder } from "../formats/staged-folder.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { weightSpecs } from "../models/decoder-weights.ts";
import { otherTowers, readFolderConfig, withTieFlag } from "../models/folder-config.ts";
import { quantizeInto } from "../models/quantized-weights.ts";
import { type StoredPart, storedParts } from "../models/stored-parts.ts";
import { checkBlockSize } from "../quant/codebook.ts";
import { combineReports, type WeighedReport } from "../quant/combine-reports.ts";
import { nestedBlockSize, quantizeScales } from "../quant/double-quant.ts";
import { signedDynamicMap } from "../quant/dynamic-map.ts";
import { quantizers } from "../quant/index.ts";
import { type QuantizationReport, quantizationReport } from "../quant/report.ts";
import { decodeToF32, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { elementCount, type Tensor, viewOf } from "../tensor/tensor.ts";
import { invariant, UserError } from "../util/errors.ts";
import { modelFiles, modelPart, partOf, REPORT_FILES, sealedRecord } from "./chain.ts";
import { denseDTypes, weightsToQuantize } from "./weights-to-quantize.ts";

export interface QuantizeFolderOptions {
  readonly model: string;
  /** What it is called by who gave it; its folder when absent. */
  readonly modelName?: string;
  readonly out: string;
  readonly quantType: BnbQuantType;
  readonly blockSize: number;
  readonly doubleQuant: boolean;
  /** What becomes of a mixture's experts; "quantized" when absent. */
  readonly experts?: "quantized" | "kept";
  /** Most bytes of one weight file. */
  readonly shardBytes?: number;
}

export interface LayerReport extends QuantizationReport {
  readonly name: string;
  /** Of the whole tensor; `count` is how many of them were measured. */
  readonly values: number;
}

export interface FolderReport {
  readonly quantizedWeights: number;
  /** Parameters that are now in 4 bits, and those that are as they were. */
  readonly quantizedParameters: number;
  readonly keptParameters: number;
  readonly sourceBytes: number;
  readonly outBytes: number;
  readonly files: readonly string[];
  readonly layers: readonly LayerReport[];
  readonly overall: QuantizationReport;
  /** What the user should know of who opens the folder. */
  readonly notes: readonly string[];
}

const pieceBytes = 16 * 2 ** 20;
/** Values of a tensor that the report measures: evenly spaced runs of whole blocks. */
const sampledValues = 2 ** 18;
const sampledRuns = 64;

/** Quantises. UserError for a folder that is quantised already, incomplete or damaged; nothing is then left behind. */
export async function quantizeFolder(
  backend: Backend,
  options: QuantizeFolderOptions,
  tell: (done: number, total: number, name: string) => void = () => {},
): Promise<FolderReport> {
  checkBlockSize(options.blockSize);
  const folder = await openModelFolder(options.model);
  try {
    const config = await readFolderConfig(folder);
    const linear = weightsToQuantize(folder, config, options.experts !== "kept");
    const staged = await stageFolder(options.out);
    try {
      const report = await new FolderQuantizer(backend, folder, config, linear, options, staged.path).run(
        tell,
      );
      const made = await openModelFolder(staged.path);
      const { names } = await modelFiles(made);
      await made.close();
      const { modelName, ...recipe } = options;
      const record = { ...recipe, model: modelName ?? options.model };
      const chain = {
        made: "quantize" as const,
        sources: [await modelPart("model", options.model, folder)],
        outputs: [await partOf("result", ".", staged.path, names, true)],
      };
      await writeFileAtomic(join(staged.path, REPORT_FILES.quantize), sealedRecord(record, chain));
      await staged.publish();
      return report;
    } finally {
      await staged.discard();
    }
  } finally {
    await folder.close();
  }
}

class FolderQuantizer {
  constructor(
    private readonly backend: Backend,
    private readonly folder: ModelFolder,
    private readonly modelConfig: DecoderConfig,
    private readonly linear: ReadonlySet<string>,
    private readonly options: QuantizeFolderOptions,
    private readonly path: string,
  ) {}

  async run(tell: (done: number, total: number, name: string) => void): Promise<FolderReport> {
    const { folder, linear, path } = this;
    const shards = this.planShards();
    const names = shardNames(shards.length);
    const layers: LayerReport[] = [];
    let done = 0;
    for (const [i, shard] of shards.entries()) {
      const file = await ScatterFile.create(
        join(path, names[i]!),
        shard.flatMap((group) => group.specs),
      );
      try {
        for (const { entry, parts } of shard) {
          if (linear.has(entry.name)) {
            for (const part of parts) layers.push(await this.quantize(entry, part, file));
          } else {
            for (const part of parts) await this.keep(entry, part, file);
          }
          tell(++done, folder.tensors.size, entry.name);
        }
        await file.finish();
      } catch (error) {
        await file.abandon();
        throw error;
      }
    }
    await this.writeSideFiles(shards, names);
    const specs = shards.flat().flatMap((group) => group.specs);
    const overall = combineReports(
      layers.map((layer): WeighedReport => ({ report: layer, values: layer.values })),
    );
    invariant(overall, "quantize: a model without linear layers");
    const all = [...folder.tensors.values()].reduce((sum, entry) => sum + elementCount(entry.shape), 0);
    return {
      quantizedWeights: layers.length,
      quantizedParameters: overall.count,
      keptParameters: all - overall.count,
      sourceBytes: folder.weightBytes,
      outBytes: specs.reduce((sum, spec) => sum + tensorBytesOf(spec), 0),
      files: names,
      layers,
      overall,
      notes: this.notes(),
    };
  }

  private notes(): string[] {
    const { linear, modelConfig } = this;
    const inStacks = weightSpecs(modelConfig).some(
      ({ kind, name }) => kind === "experts" && linear.has(name),
    );
    return inStacks
      ? [
          "the experts of this mixture are in 4 bits, each matrix a weight of its own: lowrank opens the folder, and transformers 5 does not, which knows 4-bit weights of torch.nn.Linear alone. For transformers, quantise with --experts kept, or give it the original",
        ]
      : [];
  }

  /** Files of tensors in the order of the source's bytes; what belongs to one weight stays together. */
  private planShards(): { entry: TensorEntry; parts: readonly StoredPart[]; specs: TensorSpec[] }[][] {
    const { options } = this;
    const most = options.shardBytes ?? SHARD_BYTES;
    const shards: ReturnType<FolderQuantizer["planShards"]> = [[]];
    let size = 0;
    for (const [name, entry] of this.folder.tensors) {
      for (const parts of this.groupsOf(name, entry)) {
        const specs = parts.flatMap((part) =>
          this.linear.has(name)
            ? bnbSpecs(
                part.name,
                { ...options, shape: part.shape as [number, number] },
                options.doubleQuant ? nestedBlockSize : undefined,
              )
            : [{ name: part.name, dtype: entry.dtype, shape: part.shape }],
        );
        const bytes = specs.reduce((sum, spec) => sum + tensorBytesOf(spec), 0);
        if (size > 0 && size + bytes > most) {
          shards.push([]);
          size = 0;
        }
        shards.at(-1)!.push({ entry, parts, specs });
        size += bytes;
      }
    }
    return shards;
  }

  /** What of a tensor stays in one file: all of it, or one expert's matrix. */
  private groupsOf(name: string, { shape }: TensorEntry): (readonly StoredPart[])[] {
    const { modelConfig } = this;
    // Its 4-bit form is of matrices: an expert each, where the model's own files have stacks.
    const splits = this.linear.has(name) && modelConfig.mixture?.files === "fused";
    const mixture = { ...modelConfig.mixture!, files: "gate_proj" } as const;
    const config = splits ? { ...modelConfig, mixture } : modelConfig;
    const parts = storedParts(this.folder, config, { name, shape });
    return this.linear.has(name) && parts.length > 1 ? parts.map((part) => [part]) : [parts];
  }

  /** What stays as it is, in the order that the file has it in. */
  private async keep(entry: TensorEntry, part: StoredPart, file: ScatterFile): Promise<void> {
    const valueBytes = safetensorsDTypeBytes[entry.dtype];
    for (const { offset, count } of part.pieces) {
      const { arrange } = part;
      const most = arrange ? count * valueBytes : pieceBytes;
      for (let at = 0; at < count * valueBytes; at += most) {
        const length = Math.min(most, count * valueBytes - at);
        const bytes = await this.folder.readRange(entry.name, offset * valueBytes + at, length);
        const dtype = arrange && fromSafetensorsDType(entry.dtype);
        await file.append(part.name, dtype ? encodeFrom(arrange(decodeToF32(bytes, dtype)), dtype) : bytes);
      }
    }
  }

  /** One matrix: all of the tensor, or a part of it. */
  private async quantize(entry: TensorEntry, part: StoredPart, file: ScatterFile): Promise<LayerReport> {
    const { backend, options } = this;
    const { quantType, blockSize, doubleQuant } = options;
    const { ours, torch } = denseDTypes[entry.dtype as keyof typeof denseDTypes];
    const shape = part.shape as [number, number];
    const count = elementCount(shape);
    const first = part.pieces[0]!.offset * dtypeBytes[ours];
    const dense = viewOf(backend.allocate(count * dtypeBytes[ours], "workspace"), shape, ours);
    const codes = viewOf(backend.allocate(Math.ceil(count / 2), "workspace"), [Math.ceil(count / 2)], "u8");
    try {
      const sizeBytes = count * dtypeBytes[ours];
      for (let offset = 0; offset < sizeBytes; offset += pieceBytes) {
        const length = Math.min(pieceBytes, sizeBytes - offset);
        backend.write(dense.buffer, await this.folder.readRange(entry.name, first + offset, length), offset);
      }
      await this.refuseNonFinite(part.name, dense);
      const { codebook } = quantizers[quantType];
      const absmax = await quantizeInto(backend, dense, quantizers[quantType], blockSize, codes);
      const nested = doubleQuant ? quantizeScales(absmax) : undefined;
      const tensors = bnbTensors(
        part.name,
        {
          ...{ quantType, shape, dtype: torch, blockSize, codebook },
          codes: await backend.read(codes.buffer),
          absmax: nested?.codes ?? absmax,
          nested: nested && {
            ...{ codebook: signedDynamicMap, absmax: nested.absmax },
            ...{ blockSize: nestedBlockSize, offset: nested.offset },
          },
        },
        true,
      );
      for (const { name, data } of tensors) await file.append(name, (await data()) as Uint8Array);
      const sample = await this.sample(dense);
      const report = quantizationReport(sample, Object.values(quantizers), blockSize);
      return { name: part.name, values: count, ...report };
    } finally {
      backend.free(dense.buffer);
      backend.free(codes.buffer);
    }
  }

  private async refuseNonFinite(name: string, dense: Tensor): Promise<void> {
    const { backend } = this;
    const count = viewOf(backend.allocate(8, "workspace"), [1], backend.floatType);
    backend.countNonFinite({ x: dense, out: count });
    const bytes = await backend.read(count.buffer, 0, dtypeBytes[backend.floatType]);
    backend.free(count.buffer);
    const found = decodeToF32(bytes, backend.floatType)[0]!;
    if (found > 0) {
      throw new UserError(
        `${this.folder.path}: tensor "${name}" holds ${found} values that are NaN or infinite; the checkpoint is damaged or overflowed when it was converted`,
      );
    }
  }

  /** Evenly spaced runs of whole blocks of a tensor, or all of a small one. */
  private async sample(dense: Tensor): Promise<Float32Array> {
    const { backend, options } = this;
    const count = elementCount(dense.shape);
    const size = dtypeBytes[dense.dtype];
    if (count <= sampledValues) return decodeToF32(await backend.read(dense.buffer), dense.dtype);
    const runLength = sampledValues / sampledRuns;
    const sample = new Float32Array(sampledValues);
    for (let run = 0; run < sampledRuns; run++) {
      const exact = ((count - runLength) * run) / (sampledRuns - 1);
      const start = Math.floor(exact / options.blockSize) * options.blockSize;
      const bytes = await backend.read(dense.buffer, start * size, runLength * size);
      sample.set(decodeToF32(bytes, dense.dtype), run * runLength);
    }
    return sample;
  }

  private async writeSideFiles(
    shards: readonly { readonly specs: readonly TensorSpec[] }[][],
    names: readonly string[],
  ): Promise<void> {
    const { folder, options, path } = this;
    if (names.length > 1) {
      const index = indexOf(
        shards.map((shard) => shard.flatMap((group) => group.specs)),
        names,
      );
      await writeFileAtomic(join(path, INDEX_FILE), jsonText(index));
    }
    const config: JsonObject = {
      ...withTieFlag(folder.config, this.modelConfig),
      quantization_config: toQuantizationConfig({
        quantType: options.quantType,
        doubleQuant: options.doubleQuant,
        computeDType: this.computeDType(),
        // The reference would take every other linear layer of the folder for one in 4 bits.
        skipModules: this.denseModules(),
      }),
    };
    await writeFileAtomic(join(path, CONFIG_FILE), jsonText(config, folder.config));
    await copySideFiles(options.model, path);
  }

  /**
   * Linear layers that are not in 4 bits, by parts of their names that say so: those outside the text tower, routers where
   * they are linear layers there, and then the head. Undefined where the head is all there is, as the reference takes it.
   */
  private denseModules(): string[] | undefined {
    const { folder, modelConfig } = this;
    const others = otherTowers(folder, modelConfig).map(({ name }) => name.split("."));
    const first = others.map((parts) => (parts[0] === "model" ? parts[1]! : parts[0]!));
    const routers = weightSpecs(modelConfig).flatMap(({ name, dense }) =>
      dense && name.endsWith(".router.proj.weight") ? ["router.proj"] : [],
    );
    const named = [...new Set([...first, ...routers])];
    return modelConfig.tower || named.length > 0 ? ["lm_head", ...named] : undefined;
  }

  /** What the reference is to multiply in: the dtype of the first linear weight. */
  private computeDType(): StoredDType {
    const [first] = this.linear;
    return denseDTypes[this.folder.tensors.get(first!)!.dtype as keyof typeof denseDTypes].torch;
  }
}
