// Alternatives as a prompt and completions of it. Each is rendered as it would be if it were learnt alone, and what they
// begin with alike, up to the first token that is learnt of any, is their prompt. So sequences are those of training on one
// of them, whatever a chat template makes of the turns before. Packing: assemble-forks.ts.

import { UserError } from "../util/errors.ts";
import { type RenderedExample, type Rendering, renderExample, type Sample } from "./render.ts";
import type { Example } from "./row.ts";

type Alternatives = Extract<Example, { kind: "alternatives" }>;

export function renderAlternatives({ each, label }: Alternatives, rendering: Rendering): RenderedExample {
  const rendered = each.map((example) => renderExample(example, { ...rendering, trainOn: "completions" }));
  const [first, ...others] = rendered as [RenderedExample, ...RenderedExample[]];
  const learntFrom = ({ targetMask, ids }: RenderedExample) => {
    const at = targetMask.indexOf(1);
    return at < 0 ? ids.length : at;
  };
  let prompt = Math.min(...rendered.map(learntFrom));
  for (const { ids } of others) {
    let alike = 0;
    while (alike < prompt && ids[alike] === first.ids[alike]) alike++;
    prompt = alike;
  }
  if (prompt === 0)
    throw new UserError(
      "no token stands before the completions; expected a prompt, which may not be empty here.",
    );
  const parts = rendered.map(
    ({ ids, targetMask }) => [ids.subarray(prompt), targetMask.subarray(prompt)] as const,
  );
  const dropped = rendered.find((one) => one.dropped !== undefined)?.dropped;
  return {
    ids: Int32Array.from(
      [first.ids.subarray(0, prompt), ...parts.map(([ids]) => ids)].flatMap((part) => [...part]),
    ),
    targetMask: Uint8Array.from([
      ...new Uint8Array(prompt),
      ...parts.flatMap(([, targetMask]) => [...targetMask]),
    ]),
    promptAgrees: rendered.every(({ promptAgrees }) => promptAgrees),
    fork: { prompt, completions: parts.map(([ids]) => ids.length) },
    ...(label === undefined ? {} : { label }),
    ...(dropped === undefined ? {} : { dropped }),
  };
}

type Forked = Pick<Sample, "ids" | "targetMask" | "fork">;

/** The same with no sequence longer than this: completions lose their ends. Undefined when one has no target then. */
export function cutFork<T extends Forked>(sample: T, most: number): T | undefined {
  const { ids, targetMask, fork } = sample;
  if (!fork || most <= fork.prompt) return undefined;
  const lengths = fork.completions.map((length) => Math.min(length, most - fork.prompt));
  const kept: [number, number][] = [[0, fork.prompt]];
  let from = fork.prompt;
  for (const [i, length] of fork.completions.entries()) {
    if (!targetMask.subarray(from, from + lengths[i]!).includes(1)) return undefined;
    kept.push([from, from + lengths[i]!]);
    from += length;
  }
  if (lengths.every((length, i) => length === fork.completions[i])) return sample;
  return {
    ...sample,
    ids: Int32Array.from(kept.flatMap(([start, end]) => [...ids.subarray(start, end)])),
    targetMask: Uint8Array.from(kept.flatMap(([start, end]) => [...targetMask.subarray(start, end)])),
    fork: { prompt: fork.prompt, completions: lengths },
  };
}

/** Whether every completion learns an end. */
export function everyEnds({ ids, targetMask, fork }: Forked, eosIds: readonly number[]): boolean {
  let from = fork!.prompt;
  return fork!.completions.every((length) => {
    const start = from;
    from += length;
    return ids.subarray(start, from).some((id, i) => targetMask[start + i] === 1 && eosIds.includes(id));
  });
}
