// Where the optimizer's state lives, and whether activations are recomputed: what follows from how much memory a device
// has. Within a --vram budget: fit-memory.ts.

import type { Backend } from "../backend/backend.ts";
import { hostState } from "../optim/host-paging.ts";
import { pagedState, residentState, type StateMemory } from "../optim/paging.ts";
import { machineMemory } from "./machine-memory.ts";

/**
 * Where the optimizer's state lives: in the device's memory, or with --paged what is beyond the budget in a file, where
 * the device's memory is the machine's, else in the machine's memory.
 */
export function stateMemoryOf(
  backend: Backend,
  { paged, pagedBudget }: { readonly paged: boolean; readonly pagedBudget?: number },
  folder: string,
): StateMemory {
  if (!paged) return residentState(backend);
  if (backend.paging) return pagedState(backend, backend.paging, { folder, budgetBytes: pagedBudget });
  return hostState(backend, { budgetBytes: pagedBudget ?? 0 });
}

/** Share of a card that weights and kept activations may take; the rest is for logits, gradients and scratch. */
const keptShareOfCard = 0.8;
/** Whoever trains over 4-bit weights is short of memory: beyond this, activations are recomputed, for about half a step more. */
const kept4BitBytes = 2 * 2 ** 30;

/** Whether to recompute activations: as asked, or when keeping them would take more than the machine has left. */
export function chooseCheckpointing(
  asked: "auto" | "on" | "off",
  backend: Backend,
  keptBytes: number,
): boolean {
  if (asked !== "auto") return asked === "on";
  const card = backend.deviceMemory?.();
  if (card) return card.heldBytes + keptBytes > keptShareOfCard * card.availableBytes;
  if (backend.ledger().live.scales > 0 && keptBytes > kept4BitBytes) return true;
  // On a CPU the device's memory is the machine's, which others use too, and a control group may allow less of it.
  const available = backend.paging ? 0.8 * backend.paging.availableBytes() : Number.POSITIVE_INFINITY;
  return backend.liveBytes + keptBytes > Math.min(0.6 * machineMemory().bytes, backend.liveBytes + available);
}
