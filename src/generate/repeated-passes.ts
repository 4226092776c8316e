// Passes that make the same calls: while the same requests answer, a pass differs from the one before in the numbers that it
// is given and in nothing else. The second such pass is recorded where the device can (Backend.record), and those that
// follow repeat its calls, over the same memory. Recordings live while requests run: in between, weights may change places.
// Not here: what makes two passes the same (forward-turns.ts).

import type { Backend, RecordedCalls, Tensor } from "../backend/backend.ts";

/** Recordings that are kept: each holds a pass's working memory. */
const mostKept = 2;

/** What two passes of the same calls have in common, compared one by one. */
export type PassKey = readonly unknown[];

interface Kept {
  readonly key: PassKey;
  readonly calls: RecordedCalls;
  readonly result: Tensor;
}

export class RepeatedPasses {
  /** The last used one last. */
  private kept: Kept[] = [];
  private last: PassKey = [];

  constructor(private readonly backend: Backend) {}

  /**
   * What `pass` leaves, which is then repeated or run. Its memory is given to release() after use, before the next pass. A
   * pass without a key has no like.
   */
  run(key: PassKey | undefined, pass: () => Tensor): Tensor {
    const { last } = this;
    this.last = key ?? [];
    if (!key || !this.backend.record) return pass();
    const known = this.kept.find((kept) => same(kept.key, key));
    if (known) {
      this.kept = [...this.kept.filter((kept) => kept !== known), known];
      if (known.calls.replay()) return known.result;
      this.drop(known);
    }
    if (!known && !same(last, key)) return pass();
    let result: Tensor | undefined;
    const calls = this.backend.record(() => {
      result = pass();
    });
    if (calls) this.kept.push({ key, calls, result: result! });
    if (this.kept.length > mostKept) this.drop(this.kept[0]!);
    return result!;
  }

  /** Frees what run() returned, if it belongs to no recording. */
  release(result: Tensor): void {
    if (!this.kept.some((kept) => kept.result === result)) this.backend.free(result.buffer);
  }

  /** Gives up all recordings. */
  free(): void {
    for (const kept of [...this.kept]) this.drop(kept);
    this.last = [];
  }

  private drop(kept: Kept): void {
    this.kept = this.kept.filter((other) => other !== kept);
    kept.calls.free();
    this.backend.free(kept.result.buffer);
  }
}

function same(one: PassKey, other: PassKey): boolean {
  return one.length === other.length && one.every((part, i) => part === other[i]);
}
