// What a cache of keys and values stores a number as, and what a token of a model then takes. Which of these a device
// reads is Backend.cacheTypes; the cache is kv-cache.ts.

import type { Backend, Precision } from "../backend/backend.ts";
import type { DecoderConfig, LayerConfig } from "../models/decoder-config.ts";
import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import { UserError } from "../util/errors.ts";

export const cacheTypes = ["f32", "bf16", "f16", "q8_0"] as const;
/** q8_0: 8 bits, a scale for 32 of them. */
export type CacheType = (typeof cacheTypes)[number];

type Device = Pick<Backend, "name" | "precision" | "floatType" | "cacheTypes">;

/** The device's type of a stored number; u8 are 8-bit rows. */
export function storedAs(type: CacheType, { floatType }: Pick<Backend, "floatType">): DType {
  if (type === "f32") return floatType;
  return type === "q8_0" ? "u8" : type;
}

/**
 * The type that is asked for; "auto" is f32 where `precision`, what products were asked for in, is fp32, else of 16 bits, as
 * far as the device has it. UserError where device or model do not take it.
 */
export function chooseCacheType(
  device: Device,
  config: DecoderConfig,
  asked: CacheType | "auto",
  precision: Precision | "auto" = device.precision,
): CacheType {
  const takes = (type: CacheType) => type === "f32" || device.cacheTypes?.includes(storedAs(type, device));
  if (asked === "auto") {
    const wanted = precision === "fp32" ? "f32" : device.precision === "fp16" ? "f16" : "bf16";
    return takes(wanted) ? wanted : "f32";
  }
  if (!takes(asked)) {
    const known = cacheTypes.filter(takes).join(", ");
    throw new UserError(
      `--kv-type ${asked}: the ${device.name} backend keeps keys and values as ${known}; take one of these, or auto`,
    );
  }
  const odd = config.layers.find((layer) => cachedWidth(layer) > 0 && layer.headWidth % 32 !== 0);
  if (asked === "q8_0" && odd) {
    throw new UserError(
      `--kv-type q8_0: its scales are of 32 numbers, and this model's heads have ${odd.headWidth}; take bf16 or f16`,
    );
  }
  return asked;
}

/** Numbers that a layer keeps of a token as its keys, and as its values. */
export function cachedWidth({ mixer, kvHeads, headWidth, keysFrom }: LayerConfig): number {
  return mixer === "attention" && keysFrom === undefined ? kvHeads * headWidth : 0;
}

/** Elements of the stored type that a row of so many numbers takes. */
export function rowElements(type: CacheType, width: number): number {
  return type === "q8_0" ? width + width / 16 : width;
}

/** Bytes that a token takes in all layers, keys and values. */
export function cachedTokenBytes(
  config: DecoderConfig,
  type: CacheType,
  device: Pick<Backend, "floatType">,
): number {
  const elements = config.layers.reduce((sum, layer) => sum + rowElements(type, cachedWidth(layer)), 0);
  return 2 * elements * dtypeBytes[storedAs(type, device)];
}
