// A base model's weights with an adapter added in: W + scale * B A, computed in f32 on a device, a few rows at a time,
// when they are asked for. What `merge` writes as a folder and `export` as GGUF. Not here: files, rounding, checks of
// what came out (merge-receipt.ts).

import type { Backend } from "../backend/backend.ts";
import type { LoadedAdapter } from "../formats/peft.ts";
import { checkFits } from "../models/adapter-fits.ts";
import type { DecoderConfig } from "../models/decoder-config.ts";
import { embeddingName, headName } from "../models/decoder-weights.ts";
import type { WeightSource } from "../models/load-model.ts";
import { decodeToF32, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";

export interface MergedSource extends WeightSource {
  /** The merged model's configuration: a replaced embedding or head unties the two. */
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
  checkFits(config, adapter);
  const { replacements } = adapter;
  const [embedding, head] = [`${embeddingName}.weight`, `${headName}.weight`];
  const untied = config.tied && (replacements.has(embedding) || replacements.has(head));
  const modules = new Map([...adapter.modules].map(([name, pair]) => [`${name}.weight`, { name, ...pair }]));

  return {
    path: base.path,
    config: untied ? { ...config, tied: false } : config,
    changed: new Set([...modules.keys(), ...replacements.keys()]),
    find(name) {
      const replaced = replacements.get(name);
      if (replaced) return { dtype: "f32", shape: replaced.shape };
      // The head of a tied base is its embedding, as it was before anything replaced it.
      const found = base.find(untied && name === head ? embedding : name);
      return found && modules.has(name) ? { dtype: "f32", shape: found.shape } : found;
    },
    async read(name, offset, length) {
      const replaced = replacements.get(name);
      if (replaced) return encodeFrom(replaced.values.subarray(offset / 4, (offset + length) / 4), "f32");
      if (modules.has(name)) return readMerged(name, offset, length);
      return base.read(untied && name === head ? embedding : name, offset, length);
    },
  };

  async function readMerged(name: string, offset: number, length: number): Promise<Uint8Array> {
    const { name: module, a, b } = modules.get(name)!;
    const { dtype } = base.find(name)!;
    const [rank, inputs] = a.shape as [number, number];
    const { scale } = adapter.settings.get(module)!;
    const firstRow = Math.floor(offset / 4 / inputs);
    const endRow = Math.ceil((offset + length) / 4 / inputs);
    const out = new Float32Array((endRow - firstRow) * inputs);
    const rowsAtOnce = Math.max(1, Math.floor(rowBudgetBytes / (8 * inputs)));
    const factor = new DeviceRows(backend, transposed(a.values, rank, inputs), [inputs, rank]);
    try {
      for (let row = firstRow; row < endRow; row += rowsAtOnce) {
        const rows = Math.min(rowsAtOnce, endRow - row);
        const size = dtypeBytes[dtype];
        const bytes = await base.read(name, row * inputs * size, rows * inputs * size);
        const scaled = b.values.slice(row * rank, (row + rows) * rank).map((value) => value * scale);
        // The rows of W are the residual of a linear layer with weight A^T whose input is scale * B.
        const x = new DeviceRows(backend, scaled, [rows, rank]);
        const y = new DeviceRows(backend, decodeToF32(bytes, dtype), [rows, inputs]);
        backend.linear(x.tensor, [{ weight: factor.tensor, residual: y.tensor, y: y.tensor }]);
        out.set(await y.read(), (row - firstRow) * inputs);
        x.free();
        y.free();
      }
    } finally {
      factor.free();
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
