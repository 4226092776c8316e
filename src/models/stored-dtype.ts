// What a config.json says that the weights beside it are stored in. Not here: what they are kept in (load-model.ts).

import { isJsonObject, type JsonObject } from "../formats/json.ts";
import type { DType } from "../tensor/dtype.ts";

const dtypeNames: Readonly<Record<string, DType>> = { float32: "f32", float16: "f16", bfloat16: "bf16" };

/** What a config.json says of the weights beside it; bf16 where it says nothing. */
export function storedDType(json: JsonObject): DType {
  // transformers 5 writes dtype, 4 wrote torch_dtype; quantised checkpoints nest it.
  const nested = isJsonObject(json.text_config) ? json.text_config : {};
  const name = json.dtype ?? json.torch_dtype ?? nested.dtype;
  return (typeof name === "string" && dtypeNames[name.replace(/^torch\./, "")]) || "bf16";
}
