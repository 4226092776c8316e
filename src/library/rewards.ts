// Rewards as users of the library give them: modules by their paths, as on the command line, or functions, which stay on the
// thread that they were given on and are asked through a port. Not here: what asks them (rollouts/rewards.node.ts).

import { MessageChannel, type MessagePort } from "node:worker_threads";
import { LARGEST_WEIGHT } from "../config/rollout-fields.ts";
import { answer, type Judgeable, type RewardFunction, type RewardPort } from "../rollouts/judging.ts";
import { UsageError } from "../util/errors.ts";

export type { RewardFunction } from "../rollouts/judging.ts";

/** A module's path ("F.js" or "F.js=0.5"), a function, or a function with the weight of its rewards. */
export type Reward =
  | string
  | RewardFunction
  | { readonly reward: RewardFunction; readonly weight?: number; readonly name?: string };

export interface HeldRewards extends Disposable {
  /** As the option has them; undefined where there are none. */
  readonly names: readonly string[] | undefined;
  readonly ports: readonly (RewardPort | undefined)[];
}

/** Listens for the functions among them until disposed of. */
export function heldRewards(given: Reward | readonly Reward[] | undefined): HeldRewards {
  const list = given === undefined ? [] : ([given].flat() as Reward[]);
  const here: MessagePort[] = [];
  const held = list.map((each, i) => {
    if (typeof each === "string") return { name: each, port: undefined };
    const {
      reward: one,
      weight = 1,
      name = undefined,
    } = typeof each === "function" ? { reward: each } : each;
    if (typeof one !== "function" || !(Math.abs(weight) <= LARGEST_WEIGHT)) {
      throw new UsageError(
        "reward: expected a path, a function (prompt, completion, row) => number, or { reward, weight }.",
      );
    }
    const { port1, port2 } = new MessageChannel();
    port1.on("message", (items: readonly Judgeable[]) => {
      void answer({ one }, items, (message) => port1.postMessage(message));
    });
    // A run in progress keeps the process alive, not its rewards.
    port1.unref();
    here.push(port1);
    const called = (name ?? (one.name || `reward${i + 1}`)).replace(/[=\\/]/g, "-");
    return { name: `function:${called}=${weight}`, port: port2 };
  });
  return {
    names: list.length === 0 ? undefined : held.map(({ name }) => name),
    ports: held.map(({ port }) => port),
    [Symbol.dispose]() {
      for (const port of here) port.close();
    },
  };
}
