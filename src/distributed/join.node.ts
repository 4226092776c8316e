// Whether this process is one of several ranks, and its way to the others.

import { type Collective, single } from "./collective.ts";
import { type Launch, launchOf } from "./launch.node.ts";
import { connectMpi } from "./mpi.node.ts";

export interface DistributedOptions {
  /** auto: over MPI where a launcher started more than one process. */
  readonly distributed: "auto" | "mpi" | "off";
  /** Seconds to wait for other ranks without a word from them. */
  readonly collectiveTimeout: number;
}

/** How this process was launched, where it is to be one of several ranks; undefined where it trains alone. */
export function ranksLaunched({ distributed }: Pick<DistributedOptions, "distributed">): Launch | undefined {
  if (distributed === "off") return undefined;
  const launch = launchOf();
  return launch && launch.size > 1 ? launch : undefined;
}

/** The ranks of this run. UserError where they cannot be joined. */
export async function joinRanks(options: DistributedOptions): Promise<Collective> {
  const launch = ranksLaunched(options);
  if (!launch && options.distributed !== "mpi") return single;
  return await connectMpi(launch ?? launchOf(), { timeoutSeconds: options.collectiveTimeout });
}
