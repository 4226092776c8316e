// LoRA (Hu et al. 2021): the factors' product and nothing else.

import type { AdapterKind } from "./kind.ts";

export const lora: AdapterKind = { peftKeys: {}, tensors: [], adaptsEmbeddings: true };
