// Registry of architectures by model_type. Adding one = one file + one line here.

import { UserError } from "../util/errors.ts";
import type { Architecture } from "./architecture.ts";
import type { DecoderConfig, Json } from "./decoder-config.ts";
import { exaone4 } from "./exaone4.ts";
import { gemma2 } from "./gemma2.ts";
import { gemma3Text } from "./gemma3-text.ts";
import { gemma4Text, gemma4UnifiedText } from "./gemma4-text.ts";
import { gptOss } from "./gpt-oss.ts";
import { granite, graniteMoeHybrid } from "./granite.ts";
import { hunyuanV1Dense } from "./hunyuan-v1-dense.ts";
import { refusalOf } from "./left-out.ts";
import { lfm2 } from "./lfm2.ts";
import { llama } from "./llama.ts";
import { ministral3 } from "./ministral3.ts";
import { mistral } from "./mistral.ts";
import { mixtral } from "./mixtral.ts";
import { olmo2 } from "./olmo2.ts";
import { olmo3 } from "./olmo3.ts";
import { phi3 } from "./phi3.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3 } from "./qwen3.ts";
import { qwen35MoeText } from "./qwen3-5-moe-text.ts";
import { qwen35Text } from "./qwen3-5-text.ts";
import { qwen3Moe } from "./qwen3-moe.ts";
import { seedOss } from "./seed-oss.ts";
import { smollm3 } from "./smollm3.ts";
import { textTowerOf, wrappedType, wrapperNames } from "./text-tower.ts";

export const architectures = {
  ...{ llama, mistral, qwen2, qwen3 },
  gemma2,
  gemma3_text: gemma3Text,
  gemma4_text: gemma4Text,
  gemma4_unified_text: gemma4UnifiedText,
  phi3,
  ministral3,
  granite,
  granitemoehybrid: graniteMoeHybrid,
  smollm3,
  olmo2,
  olmo3,
  exaone4,
  seed_oss: seedOss,
  hunyuan_v1_dense: hunyuanV1Dense,
  qwen3_5_text: qwen35Text,
  qwen3_5_moe_text: qwen35MoeText,
  lfm2,
  qwen3_moe: qwen3Moe,
  mixtral,
  gpt_oss: gptOss,
} satisfies Record<string, Architecture>;

/** The architecture of a configuration. */
export function architectureOf({ modelType }: Pick<DecoderConfig, "modelType">): Architecture | undefined {
  return Object.hasOwn(architectures, modelType)
    ? architectures[modelType as keyof typeof architectures]
    : undefined;
}

/** Reads a config.json of any supported architecture. Throws UserError naming the supported ones. */
export function readModelConfig(json: Json): DecoderConfig {
  const tower = textTowerOf(json);
  if (tower) return { ...readTextConfig(tower.json), ...tower.change };
  return readTextConfig(json);
}

function readTextConfig(json: Json): DecoderConfig {
  const modelType = json.model_type;
  const supported = [...Object.keys(architectures), ...wrapperNames].join(", ");
  if (typeof modelType !== "string") {
    throw new UserError(`config.json: "model_type" is missing; supported are ${supported}`);
  }
  if (!Object.hasOwn(architectures, modelType)) {
    const wrapped = wrappedType(json);
    const around =
      wrapped === undefined
        ? ""
        : ` (it is a wrapper for more than text around "${wrapped}", its text_config)`;
    const because = refusalOf(modelType);
    throw new UserError(
      `config.json: model_type "${modelType}"${around} is not supported${because}; supported are ${supported}`,
    );
  }
  return architectures[modelType as keyof typeof architectures].readConfig(json);
}
