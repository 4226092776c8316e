// Who takes part in a pass: what a request's tokens go with depends on that request alone, and nobody waits for ever.

import { describe, expect, it } from "vitest";
import { chooseTurns, type Feeding } from "../../src/generate/turns.ts";
import { Random } from "../../src/util/rng.ts";

interface Request extends Feeding {
  readonly id: number;
  fedTokens: number;
  answering: boolean;
  servedIn: number;
  /** Tokens still to be answered. */
  left: number;
  /** Each piece that went in, and whether with many rows. */
  readonly seen: string[];
}

function request(id: number, promptTokens: number, left: number): Request {
  return { id, promptTokens, fedTokens: 0, answering: false, servedIn: 0, left, seen: [] };
}

/** Runs to the end with `arrivals[i]` coming before pass i; returns the longest wait between two turns, in passes. */
function play(
  arrivals: readonly (readonly Request[])[],
  alike: { few: number; many: boolean; piece: number },
  room: number,
): number {
  let running: Request[] = [];
  let [passes, lastMany, longest] = [0, 0, 0];
  for (let i = 0; i < arrivals.length || running.length > 0; i++) {
    running.push(...(arrivals[i] ?? []));
    if (running.length === 0) continue;
    const { turns, prompts, many } = chooseTurns(running, alike, room, lastMany);
    passes++;
    if (prompts) lastMany = passes;
    expect(turns.length).toBeGreaterThan(0);
    const tokens = turns.flatMap(({ pieces }) => [...pieces]);
    const total = tokens.reduce((sum, count) => sum + count, 0);
    if (many) {
      expect(tokens.length === 1 || total <= room).toBe(true);
      expect(turns.length).toBeLessThanOrEqual(alike.many ? alike.few : 1);
    } else expect(total).toBeLessThanOrEqual(alike.few);
    // Answers and prompts have passes of their own.
    expect(turns.every(({ run }) => run.answering !== prompts)).toBe(true);
    for (const { run, pieces } of turns) {
      if (run.servedIn > 0) longest = Math.max(longest, passes - run.servedIn);
      run.servedIn = passes;
      run.seen.push(...pieces.map((count) => `${many ? "many" : "few"} ${count}`));
      if (run.answering) run.left--;
      else {
        run.fedTokens += pieces.reduce((sum, count) => sum + count, 0);
        run.answering = run.fedTokens === run.promptTokens;
      }
    }
    running = running.filter(({ left }) => left > 0);
  }
  return longest;
}

describe.each([
  ["cpu", { few: 64, many: true, piece: 64 }],
  ["reference", { few: 16, many: true, piece: 64 }],
  ["one prompt a pass", { few: 8, many: false, piece: 512 }],
] as const)("turns: %s", (_, alike) => {
  const lengths = [1, 3, alike.few, alike.few + 1, alike.piece, alike.piece + alike.few, 700, 2049, 5000];

  it("feeds a prompt in the same pieces alone and in any company", () => {
    const alone = lengths.map((length, id) => {
      const only = request(id, length, 3);
      play([[only]], alike, 2048);
      expect(only.fedTokens).toBe(length);
      return only.seen;
    });
    for (const room of [1, 300, 2048]) {
      const random = new Random(room);
      const all = Array.from({ length: 40 }, (_unused, i) => request(i, lengths[i % lengths.length]!, 3));
      const arrivals = Array.from({ length: 30 }, (): Request[] => []);
      for (const one of all) arrivals[random.nextInt(30)]!.push(one);
      play(arrivals, alike, room);
      for (const one of all) expect(one.seen).toEqual(alone[one.id % lengths.length]);
    }
  });

  it("gives 40 answers and endless prompts their turns", () => {
    const answers = Array.from({ length: 40 }, (_unused, i) => request(i, 2, 60));
    const prompts = Array.from({ length: 60 }, (_unused, i) => [request(100 + i, 600, 1)]);
    const longest = play([answers, ...prompts], alike, 2048);
    // All of the answers, in passes of `few`, once between two passes of prompts.
    expect(longest).toBeLessThanOrEqual(2 * (Math.ceil(40 / alike.few) + 1));
  });
});
