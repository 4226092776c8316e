// A model's rotary embedding in GGUF's terms, held to what llama.cpp computes from them: what it has no word for is
// refused, so that no file answers wrongly in silence. Keys: gguf-py/gguf/constants.py; use: llama.cpp's
// llama-model.cpp and ggml's rope (YaRN's ramp is there rounded to whole pairs).

import type { GgufValue } from "../../formats/gguf.ts";
import type { GgufTensorToWrite } from "../../formats/gguf-writer.ts";
import { inverseFrequencies, type RopeConfig } from "../../nn/rope-frequencies.ts";
import { encodeFrom } from "../../tensor/dtype.ts";
import { UserError } from "../../util/errors.ts";
import type { GgufArchitecture } from "../architecture.ts";
import type { DecoderConfig, LayerRope } from "../decoder-config.ts";
import { ggufArchitecture } from "./names.ts";

/** What llama.cpp divides a pair's frequency by so that it does not turn, as its converter of Gemma 4 writes. */
const standingStill = 1e30;

/** What stands for the model in one set of keys: the RoPE of its layers that see everything, or of the first that turns. */
export function mainRope({ layers, ropes }: DecoderConfig): LayerRope | undefined {
  const turning = layers.filter(({ rope }) => rope !== undefined);
  const layer = turning.find(({ window }) => window === 0) ?? turning[0];
  return layer && ropes[layer.rope!];
}

/** Keys below `<architecture>.rope.`. UserError for a rotation that llama.cpp's architecture does not have. */
export function ropeMetadata(
  config: DecoderConfig,
  like: Omit<GgufArchitecture, "name">,
  warn?: (message: string) => void,
): Map<string, GgufValue> {
  const architecture = ggufArchitecture(config).name;
  const main = mainRope(config);
  if (!main) return new Map();
  const { rope, headWidth } = main;
  const metadata = new Map<string, GgufValue>();
  const f32 = (key: string, value: number) => metadata.set(key, { type: "f32", value });
  const u32 = (key: string, value: number) => metadata.set(key, { type: "u32", value });
  const text = (key: string, value: string) => metadata.set(key, { type: "string", value });
  const refuse = (what: string): never => {
    throw new UserError(
      `this model's RoPE ${what}, which llama.cpp's ${architecture} models do not; it cannot be exported to GGUF`,
    );
  };
  if (rope.rotaryWidth !== undefined && like.interleaves)
    refuse(`turns ${rope.rotaryWidth} of a head's ${headWidth} elements`);
  if (like.interleaves || rope.rotaryWidth !== undefined)
    u32("dimension_count", rope.rotaryWidth ?? headWidth);
  f32("freq_base", rope.theta);
  switch (rope.type) {
    case "linear":
      text("scaling.type", "linear");
      f32("scaling.factor", rope.factor);
      break;
    case "dynamic":
      warn?.(
        `llama.cpp has no dynamic RoPE scaling: beyond ${rope.maxPositions} tokens it computes something else`,
      );
      break;
    case "yarn": {
      if (!rope.truncate && !like.roundsYarn)
        refuse("has YaRN's ramp between fractions of pairs (truncate: false)");
      if (!rope.truncate)
        warn?.(
          "llama.cpp begins and ends YaRN's ramp at whole pairs, where this model has fractions (truncate: false): its numbers differ a little, as those of the published model do there",
        );
      text("scaling.type", "yarn");
      f32("scaling.factor", rope.factor);
      u32("scaling.original_context_length", rope.originalMaxPositions);
      if (rope.betaFast !== 32) f32("scaling.yarn_beta_fast", rope.betaFast);
      if (rope.betaSlow !== 1) f32("scaling.yarn_beta_slow", rope.betaSlow);
      const usual = rope.factor <= 1 ? 1 : 0.1 * Math.log(rope.factor) + 1;
      const given = rope.attentionFactor / usual;
      // Both sides of the ratio are 1 in Ministral 3, whose converter writes them so.
      if (architecture === "mistral3" && rope.attentionFactor === 1) f32("scaling.yarn_log_multiplier", 1);
      else if (Math.fround(given) !== 1) f32("scaling.attn_factor", given);
      break;
    }
    case "longrope":
      if (!like.longRope) refuse("has LongRoPE's factors for short and long texts");
      u32("scaling.original_context_length", rope.originalMaxPositions);
      f32("scaling.attn_factor", rope.attentionFactor);
      break;
    case "llama3":
    case "proportional":
      if (!like.ropeFactors) refuse(`is of type "${rope.type}"`);
  }
  return metadata;
}

/** Tensors that change the plain frequencies, for the types that llama.cpp takes so. */
export function ropeTensors(
  config: DecoderConfig,
  { longRope, ropeFactors: takes }: GgufArchitecture,
): GgufTensorToWrite[] {
  const main = mainRope(config);
  if (!main) return [];
  const { rope, headWidth } = main;
  const tensor = (name: string, values: Float32Array): GgufTensorToWrite => {
    return {
      name: `${name}.weight`,
      type: "f32",
      shape: [values.length],
      data: () => encodeFrom(values, "f32"),
    };
  };
  if (rope.type === "longrope" && longRope) {
    return [
      tensor("rope_factors_long", Float32Array.from(rope.longFactors)),
      tensor("rope_factors_short", Float32Array.from(rope.shortFactors)),
    ];
  }
  const ones = takes === "always" ? new Float32Array(headWidth / 2).fill(1) : undefined;
  const factors = ropeFactors(rope, headWidth) ?? ones;
  return factors ? [tensor("rope_freqs", factors)] : [];
}

/** Divisors [D/2] of the plain frequencies, for the types that llama.cpp takes as a tensor. */
function ropeFactors(rope: RopeConfig, headWidth: number): Float32Array | undefined {
  if (rope.type !== "llama3" && rope.type !== "proportional") return undefined;
  const plain = inverseFrequencies({ type: "default", theta: rope.theta }, headWidth, 0);
  return inverseFrequencies(rope, headWidth, 0).map((frequency, i) =>
    frequency === 0 ? standingStill : plain[i]! / frequency,
  );
}
