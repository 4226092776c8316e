// quantization_config of config.json: what a model folder says of how its weights are quantised. Only bitsandbytes'
// 4-bit form is read; any other is refused by name, because its tensors would be taken for plain ones.
// The tensors themselves are bnb.ts. Keys: transformers 5, BitsAndBytesConfig.

import { UserError } from "../util/errors.ts";
import { isJsonObject, type JsonObject } from "./json.ts";

export type BnbQuantType = "nf4" | "fp4";

export interface BnbConfig {
  readonly quantType: BnbQuantType;
  readonly doubleQuant: boolean;
  /** torch's name of the dtype that the reference multiplies in. */
  readonly computeDType: string;
}

/** What config.json says, or undefined when the weights are plain. UserError for a quantisation that we cannot read. */
export function parseQuantizationConfig(config: JsonObject, where: string): BnbConfig | undefined {
  const given = config.quantization_config ?? undefined;
  if (given === undefined) return undefined;
  const fail = (message: string): never => {
    throw new UserError(`${where}: quantization_config: ${message}`);
  };
  if (!isJsonObject(given)) return fail("expected an object.");
  // Absent in files of before 2023-08, when bitsandbytes was the only method.
  const method = given.quant_method ?? "bitsandbytes";
  // gpt-oss: its experts say by their own names what they are (expert-tensors.ts), and all else is plain.
  if (method === "mxfp4") return undefined;
  if (method !== "bitsandbytes") {
    return fail(
      `quant_method is ${JSON.stringify(method)}; only bitsandbytes' 4-bit form is supported. Use the unquantised model.`,
    );
  }
  if (given.load_in_8bit === true || given.load_in_4bit !== true) {
    return fail(
      "of bitsandbytes' models only those with load_in_4bit are supported. Use the unquantised model.",
    );
  }
  const quantType = given.bnb_4bit_quant_type ?? "fp4";
  if (quantType !== "nf4" && quantType !== "fp4") {
    return fail(`bnb_4bit_quant_type is ${JSON.stringify(quantType)}; expected "nf4" or "fp4".`);
  }
  const computeDType = given.bnb_4bit_compute_dtype;
  return {
    quantType,
    doubleQuant: given.bnb_4bit_use_double_quant === true,
    computeDType: typeof computeDType === "string" ? computeDType : "float32",
  };
}

/** How config.json says that weights are in 4 bits: all linear ones, or a mixture's experts alone. */
export type StoredForm = "bitsandbytes" | "mxfp4";

/** Undefined where weights are plain, or in a form that is not read here. */
export function storedForm({ quantization_config: given }: JsonObject): StoredForm | undefined {
  if (!isJsonObject(given)) return undefined;
  const { quant_method: method = "bitsandbytes", load_in_4bit: isIn4Bits } = given;
  if (method === "mxfp4") return method;
  return method === "bitsandbytes" && isIn4Bits === true ? method : undefined;
}

/** The quantization_config to write into config.json; keys left out have transformers' defaults. */
export function toQuantizationConfig(
  config: BnbConfig & { readonly skipModules?: readonly string[] },
): JsonObject {
  return {
    bnb_4bit_compute_dtype: config.computeDType,
    bnb_4bit_quant_storage: "uint8",
    bnb_4bit_quant_type: config.quantType,
    bnb_4bit_use_double_quant: config.doubleQuant,
    ...(config.skipModules ? { llm_int8_skip_modules: config.skipModules } : {}),
    load_in_4bit: true,
    load_in_8bit: false,
    quant_method: "bitsandbytes",
  };
}
