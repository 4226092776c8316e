// The CUDA backend without a card: the same memory, products' scratch and launches, whose commands nobody runs. So what a card
// will be asked for, rounding and gaps between blocks included, is counted by the code that will ask for it. Not here: counting
// what tensors take alone (../counting.ts), who plans with it (memory/predict-memory.ts).

import type { Backend, Precision } from "../backend.ts";
import type { CardHandle, CudaAddon } from "./addon.ts";
import { openCard } from "./device.ts";

/** Pages of memory, as every card so far maps them. */
const pageBytes = 2 * 2 ** 20;
/** More than any card has, and twice of it still a whole number in a double. */
const endlessBytes = 2 ** 46;

function countingAddon(): CudaAddon {
  let [next, functions] = [pageBytes, 0];
  const nothing = (): void => {};
  return {
    probe: () => ({ problem: "", driverVersion: 0, emulated: false, cards: [] }),
    open: () => ({}) as CardHandle,
    close: nothing,
    granularity: () => pageBytes,
    reserve(_card, sizeBytes) {
      const address = next;
      next += sizeBytes;
      return address;
    },
    grow: () => true,
    loadModule: () => 0,
    findFunction: () => functions++,
    submit: nothing,
    write: nothing,
    read: async (_card, _address, sizeBytes) => new Uint8Array(sizeBytes),
    wait: nothing,
    status: () => ({
      ...{ freeBytes: endlessBytes, totalBytes: endlessBytes },
      ...{ launched: 0, replayed: 0, changed: 0, graphs: 0 },
    }),
  };
}

/** Opens it as a card of today would be opened. */
export function openCountedCard(precision: Precision): Backend {
  const backend = openCard({
    addon: countingAddon(),
    index: 0,
    card: {
      name: "counted",
      memoryBytes: endlessBytes,
      computeMajor: 8,
      computeMinor: 0,
      processors: 108,
      mostSharedBytes: 163 * 1024,
      mapsMemory: true,
    },
    emulated: false,
    precision: precision === "fp16" ? "bf16" : precision,
    description: `counts what a card is asked for, ${precision} products`,
    ptxOf: () => "",
  });
  return Object.assign(backend, { holdsNothing: true as const });
}
