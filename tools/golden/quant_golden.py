"""Golden values for src/quant: codes, scales and restored values of bitsandbytes on the CPU, as SHA-256 digests (first 16 digits).

Run: python tools/golden/quant_golden.py   (writes test/golden/quant-ts/quantizers.json; versions are stored inside)
Inputs are made by the same integer generator here and in test/quant/inputs.ts, so that none is stored.
"""

import hashlib
import json
import pathlib

import bitsandbytes as bnb
import bitsandbytes.functional as F
import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parents[2] / "test/golden/quant-ts/quantizers.json"


def bell(count, seed):
    """Sums of four 24-bit uniforms minus 2: near normal, exact in f64, rounded once to f32."""
    state = seed
    values = np.zeros(count)
    for i in range(count):
        total = 0.0
        for _ in range(4):
            state = (state * 1664525 + 1013904223) % 2**32
            total += (state >> 8) / 2**24
        values[i] = total - 2
    return values.astype(np.float32)


def inputs(codebook):
    f = np.float32
    ordered = np.sort(np.asarray(codebook, f))
    mid = ((ordered[:-1] + ordered[1:]) / f(2)).astype(f)
    wide = bell(4096, 7)
    wide[::97] *= f(40)
    sparse = bell(1000, 8)
    sparse[np.arange(1000) % 3 != 0] = 0
    return {
        "bell": bell(12288, 1),
        "odd": bell(4999, 2),
        "short": bell(31, 3),
        "one": np.array([-0.75], f),
        "zero": np.zeros(200, f),
        "constant": np.full(777, -0.3, f),
        "denormal": (bell(333, 4) * f(1e-40)).astype(f),
        "tiny": (bell(333, 5) * f(1e-37)).astype(f),
        "huge": (bell(333, 6) * f(1.5e38)).astype(f),
        "outliers": wide,
        "sparse": sparse,
        "midpoints": np.concatenate([np.ones(1, f), mid, np.nextafter(mid, f(2)), np.nextafter(mid, f(-2)), ordered]),
    }


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def four_bit():
    cases = []
    for name in ("nf4", "fp4"):
        codebook = F.get_4bit_type(name, device="cpu").numpy()
        for tensor, x in inputs(codebook).items():
            for block in (32, 64, 128, 256, 512, 1024, 2048, 4096):
                packed, state = F.quantize_4bit(torch.from_numpy(x), blocksize=block, quant_type=name)
                # + 0: the vectorised kernel restores FP4's code 8 as -0, the generic one as 0.
                back = F.dequantize_4bit(packed, state).flatten() + 0.0
                case = {
                    "quantizer": name, "tensor": tensor, "blockSize": block,
                    "codes": digest(packed.numpy()), "absmax": digest(state.absmax.numpy()),
                    "restored": digest(back.numpy()),
                }  # fmt: skip
                if len(x) > 64 and block == 64 and tensor != "huge":  # whose f32 sum of scales overflows
                    nested_codes, nested = F.quantize_4bit(
                        torch.from_numpy(x), blocksize=block, quant_type=name, compress_statistics=True
                    )
                    scales = F.dequantize_blockwise(nested.absmax, nested.state2) + nested.offset
                    case["nested"] = {
                        "offset": nested.offset.item(), "codes": digest(nested.absmax.numpy()),
                        "absmax": digest(nested.state2.absmax.numpy()), "scales": digest(scales.numpy()),
                    }  # fmt: skip
                cases.append(case)
    return cases


def nearest(x, code, block):
    """The exact lookup, as bitsandbytes' default backend computes it; its CPU build goes through a table instead."""
    bounds = (code[:-1] + code[1:]) / 2
    out = np.zeros(len(x), np.uint8)
    for start in range(0, len(x), block):
        part = torch.from_numpy(x[start : start + block])
        scaled = torch.clamp(part * (1.0 / part.abs().max().clamp(min=1e-38)), -1, 1)
        out[start : start + block] = torch.bucketize(scaled, bounds).to(torch.uint8).numpy()
    return out


def eight_bit():
    cases = []
    for name in ("signed", "unsigned"):
        code = F.create_dynamic_map(signed=name == "signed")
        for tensor, x in inputs(code.numpy()).items():
            x = np.abs(x) if name == "unsigned" else x
            for block in (64, 256, 4096):
                table, state = F.quantize_blockwise(torch.from_numpy(x), code=code.clone(), blocksize=block)
                restored = F.dequantize_blockwise(table, state)
                cases.append({
                    "map": name, "tensor": tensor, "blockSize": block, "grid": digest(table.numpy()),
                    "nearest": digest(nearest(x, code, block)), "absmax": digest(state.absmax.numpy()),
                    "restoredGrid": digest(restored.numpy()),
                })  # fmt: skip
    return cases


def adamw8bit():
    """Three updates by a NumPy transcription of 8-bit AdamW with exact nearest lookup, in f64 between roundings to f32.

    An element whose gradient is not finite keeps its parameter and restarts its moments from zero, as on CUDA.
    """
    f = np.float32
    signed = F.create_dynamic_map(signed=True)
    unsigned = F.create_dynamic_map(signed=False)
    count, block = 600, 256
    lr, b1, b2, eps, decay = 1e-2, 0.9, 0.999, 1e-8, 1e-2
    p = bell(count, 21)
    m_codes, v_codes = np.full(count, 127, np.uint8), np.zeros(count, np.uint8)
    m_max, v_max = np.zeros(3, f), np.zeros(3, f)
    steps = []
    for step in (1, 2, 3):
        g = (bell(count, 30 + step) * f(0.1)).astype(f)
        if step == 2:
            g[5], g[300] = np.nan, np.inf
        scale_m, scale_v = np.repeat(m_max, block)[:count], np.repeat(v_max, block)[:count]
        m = (signed.numpy()[m_codes] * scale_m).astype(np.float64)
        v = (unsigned.numpy()[v_codes] * scale_v).astype(np.float64)
        ok = np.isfinite(g)
        g64 = np.where(ok, g, 0).astype(np.float64)
        m = np.where(ok, b1 * m + (1 - b1) * g64, 0).astype(f)
        v = np.where(ok, b2 * v + (1 - b2) * g64 * g64, 0).astype(f)
        c2 = np.sqrt(1 - b2**step)
        size = lr * c2 / (1 - b1**step)
        new = p.astype(np.float64) * (1 - lr * decay) - size * m.astype(np.float64) / (
            np.sqrt(v.astype(np.float64)) + eps * c2
        )
        p = np.where(ok, new, p).astype(f)
        m_codes, v_codes = nearest(m, signed, block), nearest(v, unsigned, block)
        for i in range(3):
            part = slice(i * block, (i + 1) * block)
            m_max[i], v_max[i] = np.abs(m[part]).max(), np.abs(v[part]).max()
        steps.append({"params": [float(x) for x in p[::25]], "mCodes": digest(m_codes), "vCodes": digest(v_codes),
                      "mAbsmax": [float(x) for x in m_max], "vAbsmax": [float(x) for x in v_max]})  # fmt: skip
    return steps


def main():
    maps = {name: digest(F.create_dynamic_map(signed=name == "signed").numpy()) for name in ("signed", "unsigned")}
    golden = {
        "versions": {"bitsandbytes": bnb.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "codebooks": {name: F.get_4bit_type(name, device="cpu").tolist() for name in ("nf4", "fp4")},
        "maps": maps,
        "fourBit": four_bit(),
        "eightBit": eight_bit(),
        "adamw8bit": adamw8bit(),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with OUT.open("w") as file:  # one case a line
        parts = []
        for key, value in golden.items():
            if isinstance(value, list):
                rows = ",\n".join(json.dumps(row) for row in value)
                parts.append(f"{json.dumps(key)}: [\n{rows}\n]")
            else:
                parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
        file.write("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
