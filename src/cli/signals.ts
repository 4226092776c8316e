// Signals as wishes to stop. Whoever gives one a second time wants the end at once. SIGHUP says that the terminal is
// gone: for a process that has one on a stream it means stop and save; one that has none (nohup, a service, cron) goes
// on. Node takes back the "ignored" that nohup sets, so that is said again here. Not here: what stopping means (train.ts, compare.ts, serve.ts).

import { isatty } from "node:tty";
import { launchOf } from "../distributed/launch.node.ts";

/** Asked at the start: a terminal that is gone no longer answers that it is one. */
const hasTerminal = [0, 1, 2].some((descriptor) => isatty(descriptor));

/** To be called before anything else: a process without a terminal minds no hang-up. */
export function outliveTerminal(): void {
  if (!hasTerminal && process.platform !== "win32") process.on("SIGHUP", () => {});
}

/** Of several ranks: launchers pass SIGUSR2 on and wait, where they end a process that gets another signal. */
const isRank = (launchOf()?.size ?? 1) > 1;
const stopping: readonly NodeJS.Signals[] = [
  "SIGINT",
  "SIGTERM",
  ...(hasTerminal ? (["SIGHUP"] as const) : []),
  ...(isRank ? (["SIGUSR2"] as const) : []),
];

/**
 * For commands with nothing to save and something to clear away: a signal to stop ends the process in order, as soon as
 * it looks up from its work.
 */
export function exitOnStop(): void {
  for (const signal of stopping) process.on(signal, () => process.exit(130));
}

/** Of the same press of Ctrl-C, npx sends a second signal right after the first, and a launcher one after a while. */
const samePressMs = isRank ? 2000 : 250;

/**
 * Calls `first` at the first signal to stop and `again` at a further one, until the returned function is called. A
 * hang-up is no further one: a closed terminal sends several.
 */
export function onStop(first: () => void, again: () => void): () => void {
  let askedAt: number | undefined;
  const ask = (signal: NodeJS.Signals) => {
    if (askedAt === undefined) {
      askedAt = performance.now();
      first();
    } else if (signal !== "SIGHUP" && performance.now() - askedAt >= samePressMs) again();
  };
  for (const signal of stopping) process.on(signal, ask);
  return () => {
    for (const signal of stopping) process.off(signal, ask);
  };
}
