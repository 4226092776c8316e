// Inverse frequencies of the rotary position embedding (Su et al. 2021) and the ways models stretch it: linear
// interpolation, dynamic NTK scaling, YaRN (Peng et al. 2023), LongRoPE (Ding et al. 2024), LLaMA 3's
// wavelength-dependent scaling, and "proportional", where a share of the pairs turns and the rest stand still.
// In f32, operation by operation as transformers 5.24 (modeling_rope_utils.py): a rounding here is a phase thousands
// of tokens later. Tables on a device are rope-tables.ts's.

export type RopeConfig = {
  readonly theta: number;
  /** How many elements of a head turn, from its first; an odd number turns one more. Absent: all. */
  readonly rotaryWidth?: number;
  /**
   * Queries are multiplied by 1 + beta ln(1 + floor(position / originalMaxPositions)) besides. Absent: by nothing.
   * Ministral 3, LLaMA 4.
   */
  readonly queryScale?: { readonly beta: number; readonly originalMaxPositions: number };
} & (
  | { readonly type: "default" }
  | { readonly type: "linear"; readonly factor: number }
  | { readonly type: "dynamic"; readonly factor: number; readonly maxPositions: number }
  | { readonly type: "proportional"; readonly factor: number; readonly share: number }
  | YarnRope
  | LongRope
  | Llama3Rope
);

interface YarnRope {
  readonly type: "yarn";
  readonly factor: number;
  readonly originalMaxPositions: number;
  readonly betaFast: number;
  readonly betaSlow: number;
  /** Round the bounds of the ramp to whole pairs. */
  readonly truncate: boolean;
  /** Multiplies cosines and sines. */
  readonly attentionFactor: number;
}

interface LongRope {
  readonly type: "longrope";
  /** A divisor for each pair: in texts of up to originalMaxPositions tokens, and in longer ones. */
  readonly shortFactors: readonly number[];
  readonly longFactors: readonly number[];
  readonly originalMaxPositions: number;
  readonly attentionFactor: number;
}

interface Llama3Rope {
  readonly type: "llama3";
  readonly factor: number;
  readonly lowFrequencyFactor: number;
  readonly highFrequencyFactor: number;
  readonly originalMaxPositions: number;
}

const { fround } = Math;

/** Pairs of a head that have a frequency. */
export function rotaryPairs(config: RopeConfig, headWidth: number): number {
  return Math.ceil((config.rotaryWidth ?? headWidth) / 2);
}

/** What cosines and sines are multiplied by. */
export function attentionFactorOf(config: RopeConfig): number {
  return "attentionFactor" in config ? config.attentionFactor : 1;
}

/** The longest text whose frequencies are those of every shorter one. */
export function lengthOfOneTable(config: RopeConfig): number {
  if (config.type === "dynamic") return config.maxPositions;
  return config.type === "longrope" ? config.originalMaxPositions : Number.POSITIVE_INFINITY;
}

/** Inverse frequencies [pairs] for a text of `length` tokens; only "dynamic" and "longrope" depend on it. */
export function inverseFrequencies(config: RopeConfig, headWidth: number, length: number): Float32Array {
  const width = config.rotaryWidth ?? headWidth;
  const pairs = rotaryPairs(config, headWidth);
  switch (config.type) {
    case "default":
      return inverted(powers(config.theta, width, pairs));
    case "linear": {
      const factor = fround(config.factor);
      return inverted(powers(config.theta, width, pairs)).map((frequency) => frequency / factor);
    }
    case "dynamic":
      return inverted(powers(dynamicTheta(config, width, length), width, pairs));
    case "proportional": {
      const turning = Math.floor((config.share * headWidth) / 2);
      const factor = fround(config.factor);
      return inverted(powers(config.theta, headWidth, headWidth / 2)).map((frequency, i) =>
        i < turning ? frequency / factor : 0,
      );
    }
    case "yarn":
      return yarn(config, powers(config.theta, width, pairs), width);
    case "longrope": {
      const factors = length > config.originalMaxPositions ? config.longFactors : config.shortFactors;
      return inverted(powers(config.theta, width, pairs).map((power, i) => fround(factors[i]!) * power));
    }
    case "llama3":
      return inverted(powers(config.theta, width, pairs)).map((frequency) => llama3(config, frequency));
  }
}

/** theta^(2 i / width). */
function powers(theta: number, width: number, pairs: number): Float32Array {
  const base = fround(theta);
  return Float32Array.from({ length: pairs }, (_, i) => base ** fround((2 * i) / width));
}

function inverted(values: Float32Array): Float32Array {
  return values.map((value) => 1 / value);
}

function dynamicTheta(
  config: RopeConfig & { readonly type: "dynamic" },
  width: number,
  length: number,
): number {
  const longest = Math.max(length, config.maxPositions);
  const stretch = (config.factor * longest) / config.maxPositions - (config.factor - 1);
  return config.theta * stretch ** (width / (width - 2));
}

function yarn(config: YarnRope & { readonly theta: number }, power: Float32Array, width: number) {
  const { theta, originalMaxPositions: original } = config;
  // The pair that turns so many times over the original context.
  const pairOf = (turns: number) =>
    (width * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  let [low, high] = [pairOf(config.betaFast), pairOf(config.betaSlow)];
  if (config.truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, width - 1);
  if (low === high) high += 0.001;
  const [start, length, factor] = [fround(low), fround(high - low), fround(config.factor)];
  return power.map((value, i) => {
    const ramp = Math.min(Math.max(fround(fround(i - start) / length), 0), 1);
    const kept = fround(1 - ramp);
    const interpolated = fround(1 / fround(factor * value));
    const extrapolated = fround(1 / value);
    return fround(interpolated * fround(1 - kept)) + fround(extrapolated * kept);
  });
}

function llama3(config: Llama3Rope, frequency: number): number {
  const { lowFrequencyFactor: low, highFrequencyFactor: high, originalMaxPositions: original } = config;
  const factor = fround(config.factor);
  const wavelength = fround(fround(2 * Math.PI) / frequency);
  if (wavelength > fround(original / low)) return frequency / factor;
  if (wavelength < fround(original / high)) return frequency;
  const smooth = fround(fround(fround(original / wavelength) - fround(low)) / fround(high - low));
  return fround(fround(fround(1 - smooth) * frequency) / factor) + fround(smooth * frequency);
}
