// Memory of a card as the arena cuts it: blocks never overlap, lie within what was grown, and lie where they lay before when the
// same ones live.

import { describe, expect, it } from "vitest";
import { Arena, type Block, blockMultiple } from "../../src/backend/cuda/arena.ts";
import { Random } from "../../src/util/rng.ts";

const grown = (limit = Number.POSITIVE_INFINITY) => {
  let held = 0;
  const grow = (sizeBytes: number) => {
    if (held + sizeBytes > limit) return false;
    held += sizeBytes;
    return true;
  };
  return new Arena(2 ** 20, grow);
};

describe("blocks of an arena", () => {
  it("never overlap, whatever comes and goes", () => {
    const random = new Random(1);
    const arena = grown();
    const live: Block[] = [];
    for (let i = 0; i < 5000; i++) {
      if (live.length > 0 && random.nextFloat() < 0.48) {
        arena.release(live.splice(random.nextInt(live.length), 1)[0]!);
        continue;
      }
      const block = arena.allocate(Math.floor(2 ** (random.nextFloat() * 22)))!;
      expect(block.offset % blockMultiple).toBe(0);
      expect(block.offset + block.sizeBytes).toBeLessThanOrEqual(arena.heldBytes);
      for (const other of live)
        expect(
          other.offset >= block.offset + block.sizeBytes || block.offset >= other.offset + other.sizeBytes,
        ).toBe(true);
      live.push(block);
    }
    for (const block of live) arena.release(block);
    const { heldBytes } = arena;
    // All of it is one free block again.
    expect(arena.allocate(heldBytes)).toMatchObject({ offset: 0, sizeBytes: heldBytes });
    expect(arena.heldBytes).toBe(heldBytes);
  });

  it("lie where they lay the step before", () => {
    const arena = grown();
    const kept = [1000, 3 * 2 ** 20, 70_000].map((bytes) => arena.allocate(bytes)!);
    const step = () => {
      const random = new Random(2);
      const live: Block[] = [];
      const offsets: number[] = [];
      for (let i = 0; i < 500; i++) {
        if (live.length > 0 && random.nextFloat() < 0.45)
          arena.release(live.splice(random.nextInt(live.length), 1)[0]!);
        else {
          const block = arena.allocate(random.nextInt(2 ** 18))!;
          offsets.push(block.offset);
          live.push(block);
        }
      }
      for (const block of live) arena.release(block);
      return offsets;
    };
    step();
    const second = step();
    expect(step()).toEqual(second);
    expect(kept.every(({ isFree }) => !isFree)).toBe(true);
  });

  it("are undefined where there is no memory left, and the rest goes on", () => {
    const arena = grown(3 * 2 ** 20);
    const block = arena.allocate(2 * 2 ** 20)!;
    expect(arena.allocate(2 * 2 ** 20)).toBeUndefined();
    expect(arena.allocate(2 ** 20)).toBeDefined();
    arena.release(block);
    expect(arena.allocate(2 * 2 ** 20)).toMatchObject({ offset: 0 });
  });

  it("freed twice are a bug", () => {
    const arena = grown();
    const block = arena.allocate(1)!;
    arena.release(block);
    expect(() => arena.release(block)).toThrow(/twice/);
  });
});
