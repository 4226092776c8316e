// The thread that a user's reward module runs on: loads it, and calls what it exports (judging.ts).

import { parentPort, workerData } from "node:worker_threads";
import { answer, type FromReward, type Judgeable, judgeOf, told } from "./judging.ts";

export interface RewardJob {
  readonly lowrankReward: true;
  /** URL of the module. */
  readonly module: string;
}

async function serve(module: string): Promise<void> {
  const port = parentPort!;
  const post = (message: FromReward) => port.postMessage(message);
  try {
    const judge = judgeOf(await import(module));
    post({ kind: "ready" });
    port.on("message", (items: readonly Judgeable[]) => void answer(judge, items, post));
  } catch (error) {
    post({ kind: "unusable", problem: told(error) });
    port.close();
  }
}

const job = workerData as RewardJob | undefined;
if (parentPort && job?.lowrankReward) await serve(job.module);
