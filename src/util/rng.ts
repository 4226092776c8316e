// Random numbers: a counter-based generator (Philox 4x32-10) for dropout and initialisation, so that a
// value depends only on (seed, stream, index) and never on how work was split; and a small sequential
// generator for shuffles and sampling, whose state is one checkpointable object.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

const PHILOX_M0 = 0xd2511f53;
const PHILOX_M1 = 0xcd9e8d57;
const PHILOX_W0 = 0x9e3779b9;
const PHILOX_W1 = 0xbb67ae85;

/** Four 32-bit words of Philox 4x32-10 for counter (c0..c3) and key (k0, k1), written to `out`. */
export function philox(
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
  out: Uint32Array,
): void {
  for (let round = 0; round < 10; round++) {
    const lo0 = Math.imul(PHILOX_M0, c0) >>> 0;
    const hi0 = mulHigh(PHILOX_M0, c0);
    const lo1 = Math.imul(PHILOX_M1, c2) >>> 0;
    const hi1 = mulHigh(PHILOX_M1, c2);
    c0 = (hi1 ^ c1 ^ k0) >>> 0;
    c1 = lo1;
    c2 = (hi0 ^ c3 ^ k1) >>> 0;
    c3 = lo0;
    k0 = (k0 + PHILOX_W0) >>> 0;
    k1 = (k1 + PHILOX_W1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** High 32 bits of the product of two unsigned 32-bit integers. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const low = aLow * bLow;
  const mid1 = aHigh * bLow + (low >>> 16);
  const mid2 = aLow * bHigh + (mid1 & 0xffff);
  return (aHigh * bHigh + (mid1 >>> 16) + (mid2 >>> 16)) >>> 0;
}

/** The 32 random bits of element `index` (below 2^53) in stream (seed, stream): word index&3 of block index>>2. */
export function randomBits(
  seed: number,
  stream: number,
  index: number,
  scratch = new Uint32Array(4),
): number {
  const block = Math.floor(index / 4);
  philox(
    block >>> 0,
    Math.floor(block / 2 ** 32),
    stream >>> 0,
    0,
    seed >>> 0,
    Math.floor(seed / 2 ** 32) >>> 0,
    scratch,
  );
  return scratch[index % 4]!;
}

/** Whether dropout keeps element `index`: bits >= floor(p * 2^32). The native and WGSL kernels match this bit for bit. */
export function dropoutKeeps(p: number, seed: number, stream: number, index: number): boolean {
  return randomBits(seed, stream, index) >= Math.floor(p * 4294967296);
}

/** A sequential generator with checkpointable state: Philox blocks in order. */
export class Random {
  private block = new Uint32Array(4);
  constructor(
    readonly seed: number,
    readonly stream = 0,
    public counter = 0,
  ) {
    if (counter % 4 !== 0) this.refill(Math.floor(counter / 4));
  }

  private refill(index: number): void {
    philox(
      index >>> 0,
      Math.floor(index / 2 ** 32),
      this.stream >>> 0,
      1,
      this.seed >>> 0,
      Math.floor(this.seed / 2 ** 32) >>> 0,
      this.block,
    );
  }

  /** Next unsigned 32-bit integer. */
  nextUint32(): number {
    const lane = this.counter % 4;
    if (lane === 0) this.refill(Math.floor(this.counter / 4));
    this.counter++;
    return this.block[lane]!;
  }

  /** Uniform in [0, 1) with 53 bits. */
  nextFloat(): number {
    const high = this.nextUint32() >>> 5;
    const low = this.nextUint32() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  /** Uniform integer in [0, n). */
  nextInt(n: number): number {
    return Math.floor(this.nextFloat() * n);
  }

  /** Standard normal (Box-Muller, one of the pair). */
  nextNormal(): number {
    const u = 1 - this.nextFloat();
    return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * this.nextFloat());
  }

  /** Fisher-Yates, in place. */
  shuffle<T extends unknown[] | Uint32Array>(items: T): T {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.nextInt(i + 1);
      const moved = items[i]!;
      items[i] = items[j]!;
      items[j] = moved;
    }
    return items;
  }
}
