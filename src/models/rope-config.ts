// The rotary embedding that a config.json asks for, resolved as transformers 5.24 does (modeling_rope_utils.py):
// `rope_parameters` of transformers 5, `rope_theta` with `rope_scaling` of transformers 4, or both. What the types
// compute is nn/rope-frequencies.ts.

import type { RopeConfig } from "../nn/rope-frequencies.ts";
import { UserError } from "../util/errors.ts";
import { ConfigReader, type Json } from "./config-reader.ts";

const types = ["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"] as const;
type RopeType = (typeof types)[number];

const mostPositions = 2 ** 31;

export interface RopeShape {
  readonly headWidth: number;
  readonly maxPositions: number;
  /** rope_theta where config.json names none. */
  readonly theta: number;
  /**
   * Whether the plain type turns only a share of each head. The LLaMA family's classes in transformers ignore
   * partial_rotary_factor there, and so do we, saying it.
   */
  readonly partialByDefault?: boolean;
}

/** Reads the RoPE of a config.json; `note` hears of keys that change nothing. */
export function readRope(json: Json, shape: RopeShape, note: (message: string) => void): RopeConfig {
  const given = ropeObject(json);
  refuseNested(given);
  return readRopeObject(json, given, shape, note);
}

export type LayerTypeThetas = Readonly<Record<"full_attention" | "sliding_attention", number>>;

/**
 * The RoPE of each of two layer types: `rope_parameters` by type, or the flat `rope_scaling` of transformers 4, which is
 * the full layers' alone. `thetas` are those where config.json names none.
 */
export function readRopesByType(
  json: Json,
  shape: Omit<RopeShape, "theta">,
  thetas: LayerTypeThetas,
  note: (message: string) => void,
): Record<keyof LayerTypeThetas, RopeConfig> {
  const nested = objectOrNothing(json, "rope_parameters");
  const scaling = objectOrNothing(json, "rope_scaling");
  // Their lengths and thetas stand in the objects, or are the usual ones.
  const rest = { ...json, rope_theta: undefined, original_max_position_embeddings: undefined };
  const of = (type: keyof LayerTypeThetas) => {
    const own = { ...objectOrNothing(nested, type), ...(type === "full_attention" ? scaling : {}) };
    if (own.truncate !== undefined && own.truncate !== nested.truncate) {
      note(
        `config.json: truncate of the RoPE of ${type} is not used: with a RoPE for each layer type it counts beside them only, in transformers too`,
      );
    }
    const given = { ...own, truncate: nested.truncate };
    return readRopeObject(rest, given, { ...shape, theta: thetas[type] }, note);
  };
  return { full_attention: of("full_attention"), sliding_attention: of("sliding_attention") };
}

function objectOrNothing(json: Json, key: string): Json {
  const value = json[key] ?? {};
  if (typeof value === "object" && !Array.isArray(value)) return value as Json;
  throw new UserError(
    `config.json: ${key} should be an object or null, found ${JSON.stringify(value).slice(0, 80)}`,
  );
}

function readRopeObject(
  json: Json,
  given: Json,
  shape: RopeShape,
  note: (message: string) => void,
): RopeConfig {
  const type = String(given.rope_type ?? given.type ?? "default") as RopeType;
  if (!types.includes(type)) {
    throw new UserError(
      `config.json: rope type "${type}" is not supported; supported are ${types.join(", ")}`,
    );
  }
  const read = new ConfigReader(given);
  const theta = read.number(
    "rope_theta",
    (json.rope_theta ?? undefined) === undefined ? shape.theta : thetaOf(json),
  );
  if (theta <= 0) throw new UserError(`config.json: rope_theta should be above 0, found ${theta}`);
  const share = new ConfigReader({
    partial_rotary_factor: given.partial_rotary_factor ?? json.partial_rotary_factor,
  }).number("partial_rotary_factor", 1);
  const { headWidth, maxPositions } = shape;
  const width = Math.trunc(headWidth * share);
  if (!(share <= 1 && share >= 0) || (type !== "proportional" && width < 2)) {
    throw new UserError(
      `config.json: partial_rotary_factor ${share} of a head of ${headWidth} elements is no part to turn; expected above 0 and at most 1`,
    );
  }
  if (type === "proportional") return { type, theta, factor: positive(read, "factor", 1), share };
  const ignored = type === "default" && !shape.partialByDefault && width !== headWidth;
  if (ignored) {
    note(
      `config.json: partial_rotary_factor ${share} is not used: with rope type "default" models of this type turn the whole head, in transformers too`,
    );
  }
  const whole = width === headWidth || ignored;
  const common = { theta, ...(whole ? {} : { rotaryWidth: width }) };
  const original = () => originalMaxPositions(json, given, maxPositions);
  switch (type) {
    case "default":
      return { type, ...common };
    case "linear":
      return { type, ...common, factor: positive(read, "factor") };
    case "dynamic":
      if (given.original_max_position_embeddings !== undefined) {
        note(
          'config.json: original_max_position_embeddings is not used: rope type "dynamic" stretches beyond max_position_embeddings, in transformers too',
        );
      }
      if (width <= 2)
        throw new UserError(
          `config.json: rope type "dynamic" needs more than 2 turning elements, found ${width}`,
        );
      return { type, ...common, factor: positive(read, "factor"), maxPositions };
    case "llama3":
      return {
        type,
        ...common,
        factor: positive(read, "factor"),
        lowFrequencyFactor: positive(read, "low_freq_factor"),
        highFrequencyFactor: positive(read, "high_freq_factor"),
        originalMaxPositions: original(),
      };
    case "yarn":
      return { ...common, ...readYarn(given, read, maxPositions, original()) };
    case "longrope":
      return { ...common, ...readLongRope(given, read, { width, maxPositions, original: original() }) };
  }
}

/** rope_scaling, where it says something, takes the place of rope_parameters. */
function ropeObject(json: Json): Json {
  for (const key of ["rope_scaling", "rope_parameters"]) {
    const value = objectOrNothing(json, key);
    if (Object.keys(value).length > 0) return value;
  }
  return {};
}

function refuseNested(given: Json): void {
  const nested = Object.keys(given).filter((key) => {
    const value = given[key];
    return typeof value === "object" && value !== null && !Array.isArray(value);
  });
  if (nested.length === 0) return;
  throw new UserError(
    `config.json: rope_parameters holds a RoPE for each layer type (${nested.slice(0, 4).join(", ")}); models of this type have one for all layers, with rope_type and rope_theta directly in rope_parameters`,
  );
}

function thetaOf(json: Json): number {
  return new ConfigReader(json).number("rope_theta");
}

/** A length outside the RoPE's own object is the stronger one. */
function originalMaxPositions(json: Json, given: Json, maxPositions: number): number {
  const key = "original_max_position_embeddings";
  const source = json[key] === undefined || json[key] === null ? given : json;
  return new ConfigReader(source).integer(key, maxPositions, mostPositions);
}

function readYarn(given: Json, read: ConfigReader, maxPositions: number, original: number) {
  if (!("factor" in given)) throw new UserError('config.json: rope type "yarn" needs a "factor"');
  const factor = given.factor === null ? maxPositions / original : positive(read, "factor");
  const scale = (weight: number) => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
  const mscale = orZero(read, "mscale");
  const mscaleAll = orZero(read, "mscale_all_dim");
  const usual = mscale !== 0 && mscaleAll !== 0 ? scale(mscale) / scale(mscaleAll) : scale(1);
  return {
    type: "yarn",
    factor,
    originalMaxPositions: original,
    betaFast: orZero(read, "beta_fast") || 32,
    betaSlow: orZero(read, "beta_slow") || 1,
    truncate: read.flag("truncate", true),
    attentionFactor: read.number("attention_factor", usual),
  } as const;
}

function readLongRope(
  given: Json,
  read: ConfigReader,
  { width, maxPositions, original }: { width: number; maxPositions: number; original: number },
) {
  const factors = (key: string): number[] => {
    const value = given[key];
    const fits =
      Array.isArray(value) &&
      value.length === Math.ceil(width / 2) &&
      value.every((each) => typeof each === "number" && each > 0 && Number.isFinite(each));
    if (fits) return value as number[];
    const found = Array.isArray(value) ? `a list of ${value.length}` : JSON.stringify(value);
    throw new UserError(
      `config.json: ${key} should be a list of ${Math.ceil(width / 2)} numbers above 0, one for each turning pair; found ${found}`,
    );
  };
  const factor = positive(read, "factor", maxPositions / original);
  const usual = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
  return {
    type: "longrope",
    shortFactors: factors("short_factor"),
    longFactors: factors("long_factor"),
    originalMaxPositions: original,
    attentionFactor: read.number("attention_factor", usual),
  } as const;
}

function positive(read: ConfigReader, key: string, fallback?: number): number {
  const value = read.number(key, fallback);
  if (value <= 0) throw new UserError(`config.json: "${key}" should be above 0, found ${value}`);
  return value;
}

/** Absent, null and 0 all stand for the usual value. */
function orZero(read: ConfigReader, key: string): number {
  return read.number(key, 0);
}
