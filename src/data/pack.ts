// Bin packing of samples into packs of at most `capacity` tokens. packTightly is best-fit decreasing: longest first,
// each into the fullest pack that still takes it (at most 11/9 of the optimum, Johnson et al. 1974). packInOrder
// keeps the order of the data. Which samples are offered together is batches.ts's affair.

/** Indices of `order` in packs; samples of equal length keep the order they came in. */
export function packTightly(
  order: readonly number[],
  lengths: ArrayLike<number>,
  capacity: number,
): number[][] {
  const packs: number[][] = [];
  // open[r]: packs with r tokens of room; room: the r for which there are any, kept sorted.
  const open = new Map<number, number[]>();
  const room: number[] = [];
  const put = (pack: number, left: number) => {
    const stack = open.get(left);
    if (stack === undefined || stack.length === 0) room.splice(firstAtLeast(room, left), 0, left);
    if (stack === undefined) open.set(left, [pack]);
    else stack.push(pack);
  };
  for (const sample of [...order].sort((a, b) => lengths[b]! - lengths[a]!)) {
    const length = lengths[sample]!;
    const place = firstAtLeast(room, length);
    if (place === room.length) {
      packs.push([sample]);
      put(packs.length - 1, capacity - length);
      continue;
    }
    const left = room[place]!;
    const stack = open.get(left)!;
    const pack = stack.pop()!;
    if (stack.length === 0) room.splice(place, 1);
    packs[pack]!.push(sample);
    put(pack, left - length);
  }
  return packs;
}

/** Neighbours together as long as they fit. */
export function packInOrder(
  order: readonly number[],
  lengths: ArrayLike<number>,
  capacity: number,
): number[][] {
  const packs: number[][] = [];
  let used = capacity;
  for (const sample of order) {
    const length = lengths[sample]!;
    if (used + length > capacity) {
      packs.push([]);
      used = 0;
    }
    packs.at(-1)!.push(sample);
    used += length;
  }
  return packs;
}

/** Index of the first value >= `value` in a sorted list. */
function firstAtLeast(sorted: readonly number[], value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
