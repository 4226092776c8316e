// Tables of the rotary position embedding (Su et al. 2021) and the ways models stretch it: linear interpolation,
// dynamic NTK scaling, and LLaMA 3's wavelength-dependent scaling. The rotation itself is a kernel.

import type { RopeTables } from "../autograd/ops/attention.ts";
import type { Backend, Tensor } from "../backend/backend.ts";
import { encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";

export type RopeConfig = { readonly theta: number } & (
  | { readonly type: "default" }
  | { readonly type: "linear"; readonly factor: number }
  | { readonly type: "dynamic"; readonly factor: number; readonly originalMaxPositions: number }
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalMaxPositions: number;
    }
);

/** Inverse frequencies [D/2] for sequences of up to `length` tokens; only "dynamic" depends on the length. */
export function inverseFrequencies(config: RopeConfig, headWidth: number, length: number): Float32Array {
  let theta = config.theta;
  if (config.type === "dynamic" && length > config.originalMaxPositions) {
    const stretch = (config.factor * length) / config.originalMaxPositions - (config.factor - 1);
    theta *= stretch ** (headWidth / (headWidth - 2));
  }
  return Float32Array.from({ length: headWidth / 2 }, (_, i) => {
    const frequency = 1 / Math.fround(theta ** Math.fround((2 * i) / headWidth));
    if (config.type === "linear") return frequency / config.factor;
    if (config.type !== "llama3") return frequency;
    const wavelength = (2 * Math.PI) / frequency;
    const {
      factor,
      lowFrequencyFactor: low,
      highFrequencyFactor: high,
      originalMaxPositions: original,
    } = config;
    if (wavelength > original / low) return frequency / factor;
    if (wavelength < original / high) return frequency;
    const smooth = (original / wavelength - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}

/** Keeps the device's cos/sin tables long enough for the batches that come. */
export class RopeCache {
  private tables: RopeTables | undefined;
  private length = 0;
  constructor(
    private readonly backend: Backend,
    private readonly config: RopeConfig,
    private readonly headWidth: number,
  ) {}

  /** Tables that serve positions 0..length-1. */
  upTo(length: number): RopeTables {
    const dynamic = this.config.type === "dynamic" && length > this.config.originalMaxPositions;
    if (this.tables && (dynamic || this.builtDynamic ? length === this.length : length <= this.length))
      return this.tables;
    this.free();
    // Grow in steps so that slightly longer batches do not rebuild.
    this.length = dynamic ? length : Math.ceil(length / 256) * 256;
    if (this.config.type === "dynamic" && !dynamic)
      this.length = Math.min(this.length, this.config.originalMaxPositions);
    this.builtDynamic = dynamic;
    const frequencies = inverseFrequencies(this.config, this.headWidth, this.length);
    const half = this.headWidth / 2;
    const cos = new Float32Array(this.length * half);
    const sin = new Float32Array(this.length * half);
    const computed = this.backend.holdsNothing ? 0 : this.length;
    for (let p = 0; p < computed; p++) {
      for (let i = 0; i < half; i++) {
        const angle = Math.fround(p * frequencies[i]!);
        cos[p * half + i] = Math.cos(angle);
        sin[p * half + i] = Math.sin(angle);
      }
    }
    this.tables = { cos: this.upload(cos), sin: this.upload(sin) };
    return this.tables;
  }

  private builtDynamic = false;

  private upload(values: Float32Array): Tensor {
    const dtype = this.backend.floatType;
    const bytes = encodeFrom(values, dtype);
    const buffer = this.backend.allocate(bytes.byteLength, "workspace");
    this.backend.write(buffer, bytes);
    return viewOf(buffer, [this.length, this.headWidth / 2], dtype);
  }

  free(): void {
    if (!this.tables) return;
    this.backend.free(this.tables.cos.buffer);
    this.backend.free(this.tables.sin.buffer);
    this.tables = undefined;
  }
}
