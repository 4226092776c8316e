"""Goldens of bitsandbytes' quantisers, run on the CPU: 4-bit (NF4, FP4; nested or not) and 8-bit blockwise.

Inputs are formulas (see `inputs`), except "ties", which is stored. Codes and scales are stored; of dequantised
values a checksum (sum modulo 2^32 of the float32 words), and the values themselves where they are few.
Mind in 0.50: a last block shorter than the block size is divided by its absmax, where a full block is multiplied by
the float32 reciprocal, and its absmax is at least 1e-38.
"""
import numpy as np
import torch
import bitsandbytes.functional as bnb
from philox import unit
from record import array, number, versions, write

SEED = 800
NESTED_BLOCK = 256


def inputs(kind: str, stream: int, count: int) -> torch.Tensor:
    """The formulas of quantInput in test/golden/quant-golden.ts; u is in [-1, 1), float64, rounded once at the end."""
    u = unit(SEED, stream, count)
    values = {
        "uniform": lambda: u,
        "cubed": lambda: u * u * u,
        "constant": lambda: np.full(count, -0.37),
        "zero": lambda: np.zeros(count),
        "denormal": lambda: u * 1e-40,
        "huge": lambda: u * 3e38,
        "zero-block": lambda: np.where((np.arange(count) >= 64) & (np.arange(count) < 128), 0.0, u),
        # One large element a block of 64: everything else falls on the codes next to zero.
        "outlier": lambda: np.where(np.arange(count) % 64 == 5, 100.0, u),
        "positive": lambda: np.abs(u * u * u),
    }[kind]()
    return torch.from_numpy(values.astype(np.float32))


def ties(code: torch.Tensor) -> torch.Tensor:
    """Every midpoint of neighbouring codes with the float32 below and above it; +1 fixes the block's absmax at 1."""
    ordered = code.sort().values
    middle = ((ordered[:-1] + ordered[1:]) / 2).numpy()
    below, above = np.nextafter(middle, np.float32(-2)), np.nextafter(middle, np.float32(2))
    return torch.from_numpy(np.concatenate([[1.0], np.stack([below, middle, above], 1).ravel()]).astype(np.float32))


def checksum(values) -> int:
    return int(np.asarray(values).view(np.uint32).astype(np.uint64).sum() % 2**32)


def decode(packed, scales, code, block, count):
    """code * scale in float32: the definition, to hold bitsandbytes' vectorised kernels against."""
    flat = packed.flatten()
    codes = torch.stack([flat >> 4, flat & 15], 1).flatten()[:count].long()
    return code[codes] * scales.repeat_interleave(block)[:count]


def described(kind, stream, count, values):
    return {"kind": kind, "stream": stream, "count": count, **({"input": array(values)} if kind == "ties" else {})}


def four_bit(quant_type, kind, stream, count, block, nested):
    values = ties(bnb.get_4bit_type(quant_type, device="cpu")) if kind == "ties" else inputs(kind, stream, count)
    count = values.numel()
    packed, state = bnb.quantize_4bit(values, blocksize=block, compress_statistics=nested, quant_type=quant_type)
    result = {**described(kind, stream, count, values), "quantType": quant_type, "blockSize": block,
              "codes": array(packed.flatten())}
    scales = state.absmax
    if nested:
        scales = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
        result |= {"scaleCodes": array(state.absmax), "nestedScales": array(state.state2.absmax),
                   "nestedOffset": number(state.offset)}
    decoded = decode(packed, scales, state.code, block, count)
    theirs = bnb.dequantize_4bit(packed, state).flatten()
    assert torch.equal(decoded, theirs), f"bitsandbytes' own decoder differs: {result}"
    result |= {"scales": array(scales), "dequantizedChecksum": checksum(decoded)}
    return result | ({"dequantized": array(decoded)} if count <= 256 else {})


def eight_bit(signed, kind, stream, count):
    code = bnb.create_dynamic_map(signed=signed)
    values = ties(code) if kind == "ties" else inputs(kind, stream, count)
    codes, state = bnb.quantize_blockwise(values, code=code, blocksize=NESTED_BLOCK)
    decoded = bnb.dequantize_blockwise(codes, state)
    assert torch.equal(decoded, code[codes.long()] * state.absmax.repeat_interleave(NESTED_BLOCK)[: codes.numel()])
    return {**described(kind, stream, values.numel(), values), "signed": signed, "blockSize": NESTED_BLOCK,
            "codes": array(codes), "scales": array(state.absmax), "dequantizedChecksum": checksum(decoded)}


def four_bit_cases():
    cases = []
    for quant_type in ("nf4", "fp4"):
        for block in (32, 64, 128, 256, 512, 1024, 2048, 4096):
            cases.append((quant_type, "cubed", 1, 4096 + 70, block, False))
        for kind, count in (("uniform", 256), ("constant", 128), ("zero", 64), ("zero", 70), ("zero-block", 256),
                            ("denormal", 128), ("denormal", 70), ("huge", 128), ("outlier", 192), ("uniform", 1),
                            ("uniform", 2), ("uniform", 63), ("uniform", 65), ("ties", 0)):
            cases.append((quant_type, kind, 2, count, 64, False))
    for kind, count in (("uniform", 64), ("cubed", 64 * 300), ("constant", 256), ("zero", 256), ("outlier", 1024),
                        ("uniform", 64 * 256 + 30)):
        cases.append(("nf4", kind, 3, count, 64, True))
    cases.append(("fp4", "cubed", 3, 2048, 64, True))
    return cases


def main():
    torch.set_num_threads(1)
    write("quant.json", {
        "versions": versions("bitsandbytes", "torch", "numpy"), "seed": SEED,
        "maps": {"nf4": array(bnb.get_4bit_type("nf4", device="cpu")), "fp4": array(bnb.get_4bit_type("fp4", device="cpu")),
                 "dynamicSigned": array(bnb.create_dynamic_map(signed=True)),
                 "dynamicUnsigned": array(bnb.create_dynamic_map(signed=False))},
        "fourBit": [four_bit(*c) for c in four_bit_cases()],
        "eightBit": [eight_bit(signed, kind, 4, count) for signed in (True, False)
                     for kind, count in (("uniform" if signed else "positive", 1000), ("zero", 300), ("constant", 256),
                                         ("denormal", 256), ("huge", 256), ("outlier", 512), ("ties", 0))],
    })


if __name__ == "__main__":
    main()
