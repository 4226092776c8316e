"""Golden of the weight formula itself: bits, float32 values and a checksum of each tiny model's weights."""
import numpy as np
from philox import random_bits, uniform
from record import array, versions, write
from tiny_models import MODELS, build, stored_names


def checksum(name: str) -> int:
    """Sum modulo 2^32 of all float32 words."""
    model = build(name)
    state = model.state_dict()
    words = [int(state[n].numpy().view(np.uint32).astype(np.uint64).sum()) for n in stored_names(model)]
    return sum(words) % 2**32


def main():
    bits = [(0, 0, 0), (1, 2, 3), (0xDEADBEEF, 0xFFFFFFFF, 1), (2**40 + 7, 5, 2**34 + 2), (2**53 - 1, 1000, 2**53 - 20)]
    tensors = [(101, 0, (3, 5), 0.25, 0.0), (7, 1003, (9,), 0.1, 1.0)]
    write("formula.json", {
        "versions": versions("numpy", "torch", "transformers"),
        "bits": [{"seed": seed, "stream": stream, "start": start, "words": random_bits(seed, stream, 9, start).tolist()}
                 for seed, stream, start in bits],
        "tensors": [{"seed": seed, "stream": stream, "bound": bound, "center": center,
                     "values": array(uniform(seed, stream, shape, bound, center))}
                    for seed, stream, shape, bound, center in tensors],
        "checksums": {name: checksum(name) for name in MODELS},
    })


if __name__ == "__main__":
    main()
