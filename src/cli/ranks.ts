// A command as one of several ranks: only rank 0 speaks, an error on any of them ends all with its exit code, and
// nobody leaves before the others have come to the end. Not here: who the ranks are (distributed/).

import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { type DistributedOptions, ranksLaunched } from "../distributed/join.node.ts";
import { abortMpi, leaveMpi } from "../distributed/mpi.node.ts";
import { type ExitCode, exitCodes, type Terminal } from "./terminal.ts";

/** An error that all ranks come to alike is told by the first of them: each later one waits so much longer. */
const tellDelayMs = 500;
const mostDelays = 6;

/** Runs a command as this process's rank; where it is none of several, as ever. */
export async function onRanks(
  options: DistributedOptions,
  terminal: Terminal,
  command: (terminal: Terminal) => Promise<ExitCode>,
): Promise<ExitCode> {
  const launch = ranksLaunched(options);
  if (!launch && options.distributed !== "mpi") return await command(terminal);
  const rank = launch?.rank ?? 0;
  // However this process ends, the others do: there is no launcher that ends them in every case.
  process.on("exit", (code) => abortMpi(code === 0 ? exitCodes.bug : code));
  try {
    const code = await command(rank === 0 ? terminal : silenced(terminal));
    leaveMpi({ timeoutSeconds: options.collectiveTimeout });
    return code;
  } catch (error) {
    if (rank > 0) {
      await sleep(tellDelayMs * Math.min(rank, mostDelays));
      if (error instanceof Error) error.message = `rank ${rank} on ${hostname()}: ${error.message}`;
    }
    throw error;
  }
}

function silenced(terminal: Terminal): Terminal {
  const nothing = () => {};
  return {
    ...terminal,
    live: false,
    ...{ print: nothing, document: nothing, stream: nothing, note: nothing, warn: nothing, status: nothing },
  };
}
