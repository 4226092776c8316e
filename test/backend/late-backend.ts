// A backend that works by itself, as a GPU does, in the tests' hands: over another one, what is read is what was there when
// the read was asked for, and it arrives some turns of the event loop later. Nothing here is a test.

import type { Backend } from "../../src/backend/backend.ts";

export interface LateBackend extends Backend {
  /** Reads that were asked for and have not arrived. */
  readonly waiting: number;
  /** The most of them at a time. */
  readonly mostWaiting: number;
}

export function lateBackend(backend: Backend, turns = 20): LateBackend {
  let [waiting, mostWaiting] = [0, 0];
  const late = {
    runsAhead: true as const,
    get waiting() {
      return waiting;
    },
    get mostWaiting() {
      return mostWaiting;
    },
    async read(...args: Parameters<Backend["read"]>) {
      const bytes = backend.read(...args);
      mostWaiting = Math.max(mostWaiting, ++waiting);
      for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
      waiting--;
      return bytes;
    },
  };
  return Object.defineProperties(Object.create(backend), Object.getOwnPropertyDescriptors(late));
}
