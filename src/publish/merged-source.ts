// A base model's weights with an adapter added in: W + scale * B A, computed in f32 on a device, a few rows at a time,
// when they are asked for. What `merge` writes as a folder and `export` as GGUF. Not here: files, rounding, checks of
// what came out (merge-receipt.ts).

import type { Backend } from "../backend/backend.ts";
import type { LoadedAdapter } from "../formats/peft.ts";
import { planAdapter, scaleOf } from "../models/adapter-plan.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { embeddingName, headName } from "../models/decoder-weights.ts";
import { ownB } from "../models/expert-factors.ts";
import type { WeightSource } from "../models/load-model.ts";
import { resizedSource } from "../models/resized-source.ts";
import { adapterKind } from "../nn/adapter-kinds/index.ts";
import { decodeToF32, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";

export interface MergedSource extends WeightSource {
  /** The merged model's configuration: with the adapter's vocabulary, and untied where its tables differ. */
  readonly config: DecoderConfig;
  /** Names of the weights that differ from the base's. */
  readonly changed: ReadonlySet<string>;
}

const rowBudgetBytes = 16 * 2 ** 20;

/** UserError when the adapter does not belong to a model of this configuration. */
export function mergedSource(
  backend: Backend,
  base: WeightSource,
  config: DecoderConfig,
  adapter: LoadedAdapter,
): MergedSource {
  const plan = planAdapter(config, adapter);
  const resized = resizedSource(base, config.vocabularySize, plan.base.vocabularySize);
  const whole = new Map([...plan.fixed, ...plan.replaced]);
  const [embedding, head] = [`${embeddingName}.weight`, `${headName}.weight`];
  const factors = new Map(
    [...plan.linears].map(([name, pair]) => [
      `${name}.weight`,
      {
        ...{ a: pair.a, b: ownB(name, pair, config), tensors: pair.tensors },
        ...{ scale: scaleOf(adapter, name), experts: pair.experts },
      },
    ]),
  );
  const kind = adapterKind(adapter.config.kind);
  if (plan.embedding) factors.set(embedding, { ...plan.embedding, tensors: undefined, experts: undefined });
  // The head of a tied base is its embedding, as it was before anything changed that.
  const stored = (name: string) => (config.tied && name === head && !resized.find(head) ? embedding : name);
  const find = (name: string) => {
    const tensor = whole.get(name);
    return tensor ? ({ dtype: "f32", shape: tensor.shape } as const) : resized.find(stored(name));
  };
  const read = async (name: string, offset: number, length: number): Promise<Uint8Array> => {
    const tensor = whole.get(name);
    if (tensor) return encodeFrom(tensor.values.subarray(offset / 4, (offset + length) / 4), "f32");
    return resized.read(stored(name), offset, length);
  };

  return {
    path: base.path,
    config: { ...plan.base, tied: plan.tied },
    changed: new Set([...factors.keys(), ...whole.keys()]),
    find(name) {
      const found = find(name);
      return found && factors.has(name) ? { dtype: "f32", shape: found.shape } : found;
    },
    read: (name, offset, length) =>
      factors.has(name) ? readMerged(name, offset, length) : read(name, offset, length),
  };

  async function readMerged(name: string, offset: number, length: number): Promise<Uint8Array> {
    const { a, b, scale, tensors, experts = 1 } = factors.get(name)!;
    const { dtype, shape } = find(name)!;
    const inputs = a.shape[1]!;
    const rank = a.shape[0]! / experts;
    // Rows of one expert share its A.
    const expertRows = experts === 1 ? Number.POSITIVE_INFINITY : shape.at(-2)!;
    const firstRow = Math.floor(offset / 4 / inputs);
    const endRow = Math.ceil((offset + length) / 4 / inputs);
    const out = new Float32Array((endRow - firstRow) * inputs);
    const rowsAtOnce = Math.max(1, Math.floor(rowBudgetBytes / (8 * inputs)));
    let factor: DeviceRows | undefined;
    let factorOf = -1;
    try {
      for (let row = firstRow, rows = 0; row < endRow; row += rows) {
        const expert = Math.floor(row / expertRows);
        if (expert !== factorOf) {
          factor?.free();
          const own = a.values.subarray(expert * rank * inputs, (expert + 1) * rank * inputs);
          factor = new DeviceRows(backend, transposed(own, rank, inputs), [inputs, rank]);
          factorOf = expert;
        }
        rows = Math.min(rowsAtOnce, endRow - row, (expert + 1) * expertRows - row);
        const size = dtypeBytes[dtype];
        const bytes = await read(name, row * inputs * size, rows * inputs * size);
        const scaled = b.values.slice(row * rank, (row + rows) * rank).map((value) => value * scale);
        // The rows of W are the residual of a linear layer with weight A^T whose input is scale * B.
        const x = new DeviceRows(backend, scaled, [rows, rank]);
        const y = new DeviceRows(backend, decodeToF32(bytes, dtype), [rows, inputs]);
        backend.linear(x.tensor, [{ weight: factor!.tensor, residual: y.tensor, y: y.tensor }]);
        const merged = await y.read();
        if (tensors) kind.mergeRows?.(merged, inputs, row, tensors);
        out.set(merged, (row - firstRow) * inputs);
        x.free();
        y.free();
      }
    } finally {
      factor?.free();
    }
    const skipped = offset - firstRow * inputs * 4;
    return new Uint8Array(out.buffer, skipped, length).slice();
  }
}

/** A matrix in the backend's own float type. */
class DeviceRows {
  readonly tensor;
  constructor(
    private readonly backend: Backend,
    values: Float32Array,
    shape: readonly number[],
  ) {
    const bytes = encodeFrom(values, backend.floatType);
    const buffer = backend.allocate(bytes.byteLength, "workspace");
    backend.write(buffer, bytes);
    this.tensor = viewOf(buffer, shape, backend.floatType);
  }

  async read(): Promise<Float32Array> {
    return decodeToF32(await this.backend.read(this.tensor.buffer), this.tensor.dtype);
  }

  free(): void {
    this.backend.free(this.tensor.buffer);
  }
}

function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) out[c * rows + r] = values[r * columns + c]!;
  return out;
}
