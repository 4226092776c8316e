"""The random numbers of src/util/rng.ts in NumPy: Philox 4x32-10, bit for bit.

A value depends only on (seed, stream, index), so a golden needs no stored weights: this file and
test/golden/load-golden.ts compute the same ones. test/golden/load-golden.test.ts compares the two.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""
import numpy as np

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = 0x9E3779B9, 0xBB67AE85
LOW = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


def random_bits(seed: int, stream: int, count: int, start: int = 0) -> np.ndarray:
    """The 32 random bits (as uint32) of elements start .. start + count - 1 of stream (seed, stream)."""
    index = np.arange(start, start + count, dtype=np.uint64)
    block = index >> np.uint64(2)
    c0, c1 = block & LOW, block >> SHIFT
    c2 = np.full(count, stream & 0xFFFFFFFF, dtype=np.uint64)
    c3 = np.zeros(count, dtype=np.uint64)
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> SHIFT) ^ c1 ^ np.uint64(k0), p1 & LOW, (p0 >> SHIFT) ^ c3 ^ np.uint64(k1), p0 & LOW
        k0, k1 = (k0 + W0) & 0xFFFFFFFF, (k1 + W1) & 0xFFFFFFFF
    words = np.stack([c0, c1, c2, c3])
    return words[(index & np.uint64(3)).astype(np.int64), np.arange(count)].astype(np.uint32)


def unit(seed: int, stream: int, count: int) -> np.ndarray:
    """Uniform in [-1, 1), float64: bits / 2^31 - 1."""
    return random_bits(seed, stream, count).astype(np.float64) / 2147483648.0 - 1.0


def uniform(seed: int, stream: int, shape: tuple, bound: float, center: float = 0.0) -> np.ndarray:
    """center + unit * bound, computed in float64 and rounded once to float32."""
    count = int(np.prod(shape, dtype=np.int64))
    return (center + unit(seed, stream, count) * bound).astype(np.float32).reshape(shape)


def integers(seed: int, stream: int, count: int, below: int) -> list:
    """Integers in [0, below): floor(bits * below / 2^32)."""
    return [int(b) * below >> 32 for b in random_bits(seed, stream, count)]
