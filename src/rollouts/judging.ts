// Calling a user's reward function on whatever thread it lives, and what is told of it: answers go out one by one, so that
// whoever waits knows which row a call hangs on. What a function throws or returns is told in words or as it is, and judged
// on the other side (rewards.node.ts).

/** A completion to judge; plain data. */
export interface Judgeable {
  readonly prompt: string;
  readonly completion: string;
  readonly row: unknown;
}

/** A thread, or a port to a function that lives on another; Node's own types stay out of what the package declares. */
export interface RewardPort {
  postMessage(items: readonly Judgeable[]): void;
}

export type FromReward =
  | { readonly kind: "ready" }
  /** The module cannot be used. */
  | { readonly kind: "unusable"; readonly problem: string }
  | { readonly kind: "reward"; readonly index: number; readonly value: unknown }
  /** Of a function of lists. */
  | { readonly kind: "rewards"; readonly values: unknown }
  | { readonly kind: "thrown"; readonly index: number | undefined; readonly problem: string };

/** Of a completion; what it returns, or promises, is to be a finite number, or null where it has nothing to say. */
export type RewardFunction = (prompt: string, completion: string, row: unknown) => unknown;
type Lists = (prompts: string[], completions: string[], rows: unknown[]) => unknown;

/** What a module has to judge with. Throws in words. */
export function judgeOf(
  exported: Readonly<Record<string, unknown>>,
): { one: RewardFunction } | { lists: Lists } {
  const inner = exported.default as Readonly<Record<string, unknown>> | undefined;
  for (const candidate of [exported.default, exported.reward, inner?.default, inner?.reward])
    if (typeof candidate === "function") return { one: candidate as RewardFunction };
  for (const candidate of [exported.rewards, inner?.rewards])
    if (typeof candidate === "function") return { lists: candidate as Lists };
  const names = Object.keys(exported).slice(0, 8);
  throw new Error(
    `expected a default export (prompt, completion, row) => number, or an export "rewards" of lists; found ${names.length > 0 ? names.join(", ") : "no exports"}`,
  );
}

/** Functions that wait do so together; each answer goes out as it is there. */
export async function answer(
  judge: ReturnType<typeof judgeOf>,
  items: readonly Judgeable[],
  post: (message: FromReward) => void,
): Promise<void> {
  if ("lists" in judge) {
    try {
      const of = <T>(take: (item: Judgeable) => T) => items.map(take);
      const values = await judge.lists(
        of(({ prompt }) => prompt),
        of(({ completion }) => completion),
        of(({ row }) => row),
      );
      post({ kind: "rewards", values: sendable(values) });
    } catch (error) {
      post({ kind: "thrown", index: undefined, problem: told(error) });
    }
    return;
  }
  for (const [index, { prompt, completion, row }] of items.entries()) {
    const fail = (error: unknown) => post({ kind: "thrown", index, problem: told(error) });
    try {
      const value = judge.one(prompt, completion, row);
      const tell = (reward: unknown) => post({ kind: "reward", index, value: sendable(reward) });
      if (value instanceof Promise) value.then(tell, fail);
      else tell(value);
    } catch (error) {
      fail(error);
    }
  }
}

/** What cannot cross a thread is not a reward either. */
function sendable(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sendable);
  if (value === null || ["number", "string", "boolean", "undefined", "bigint"].includes(typeof value))
    return value;
  return { found: `a value of type ${typeof value}` };
}

export function told(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const place = /\n\s+at (?:.*\()?(?:file:\/\/)?([^()\n]+:\d+:\d+)\)?/.exec(error.stack ?? "")?.[1];
  return `${error.name}: ${error.message}${place ? ` (${place.split(/[\\/]/).at(-1)})` : ""}`;
}
