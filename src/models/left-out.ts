// Model types that are known and left out, with the reason that a refusal gives.

const mamba = "its layers scan a state space (Mamba), which is not built here";
const latent = "its attention keeps latent keys and values (MLA), which is not built here";
const sparse = "its attention chooses tokens through an index, which is not built here";
const large = "its smallest size does not fit one machine";

const reasons: Readonly<Record<string, string>> = {
  ...{ bamba: mamba, falcon_h1: mamba, mamba, mamba2: mamba, nemotron_h: mamba },
  ...{ deepseek_v2: latent, deepseek_v3: latent, glm4_moe_lite: latent, kimi_k2: latent, mistral4: latent },
  ...{ deepseek_v4: sparse, glm5_next: sparse, qwen4_exp: sparse },
  ...{ llama4: large, llama4_text: large, minimax: large },
  gemma3n: "its blocks predict several streams (AltUp); use Gemma 4",
  gemma3n_text: "its blocks predict several streams (AltUp); use Gemma 4",
  starcoder2: "its norms are LayerNorm and its MLP has no gate",
  phi: "its norms are LayerNorm and its MLP has no gate",
  gpt2: "its norms are LayerNorm and its MLP has no gate",
  gpt_neox: "its norms are LayerNorm and its MLP has no gate",
};

/** What a refusal adds for this model type; empty where nothing is known of it. */
export function refusalOf(modelType: string): string {
  return Object.hasOwn(reasons, modelType) ? `: ${reasons[modelType]}` : "";
}
