// A turn for messages, timers and aborts between two pieces of work that keep the thread busy: on a CPU nothing else would
// ever get one.

/** Resolves after whatever else was waiting to run. */
export const nextTurn: () => Promise<void> =
  typeof setImmediate === "function"
    ? () => new Promise((resolve) => setImmediate(resolve))
    : () => new Promise((resolve) => setTimeout(resolve, 0));
