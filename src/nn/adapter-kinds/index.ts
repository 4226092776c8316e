// Registry of adapter kinds by the name that --adapter takes. Adding one = one file + one line here.

import { dora } from "./dora.ts";
import type { AdapterKind } from "./kind.ts";
import { lora } from "./lora.ts";

export const adapterKinds = { lora, dora } satisfies Record<string, AdapterKind>;
export type AdapterKindName = keyof typeof adapterKinds;
export type { AdaptedLayer, AdapterKind, Attachment, KindTensor, KindValues } from "./kind.ts";

export const adapterKindNames = Object.keys(adapterKinds) as readonly AdapterKindName[];

/** The kind by its name. */
export function adapterKind(name: AdapterKindName): AdapterKind {
  return adapterKinds[name];
}
