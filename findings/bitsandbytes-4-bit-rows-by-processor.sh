#!/usr/bin/env bash
# What: bitsandbytes 0.50.2 (0.49.0, where its AVX-512 code begins, likewise) decodes a 4-bit matrix on the CPU to other
#   numbers where the processor has AVX-512: there, rows of a multiple of 16 columns that is no multiple of the block are read as if each row
#   began a block of its own, while quantize_4bit blocks the matrix end to end. Other row lengths, other processors, and
#   version 0.48.2 anywhere, give the numbers that were quantised.
# Why it matters: a folder quantised, or an adapter trained, on one machine meets another base on the next, with no message.
#   SigLIP's so400m, the vision tower of Gemma 3, has an MLP of 4304 columns: 67.25 blocks of 64.
# Seen, with AVX-512:    {48: 'misread', 80: 'misread', 100: 'right', 128: 'right', 4304: 'misread'}
#   without AVX-512:     {48: 'right', 80: 'right', 100: 'right', 128: 'right', 4304: 'right'}
#   the same codes as one long row: right on both. The library asks the processor once and keeps the answer; the script
#   also overwrites that answer, so that one machine with AVX-512 shows both results.
# Runs without lowrank, on random numbers; some minutes and 6 GB for torch. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 bitsandbytes==0.50.2

"$folder/venv/bin/python" - <<'PY'
import ctypes
import logging
import struct

logging.disable(logging.WARNING)
import bitsandbytes
import torch
from bitsandbytes import functional
from bitsandbytes.cextension import lib

torch.manual_seed(0)
COLUMNS = (48, 80, 100, 128, 4304)


def defined(packed, state, count):
    """What the format says: code * scale, 64 codes a block, end to end."""
    nibbles = torch.stack([packed.reshape(-1) >> 4, packed.reshape(-1) & 15], 1).reshape(-1).long()
    return (state.code[nibbles] * state.absmax.repeat_interleave(64)[:count]).reshape(-1)


def seen():
    found = {}
    for columns in COLUMNS:
        for quant_type in ("nf4", "fp4"):
            dense = torch.randn(64, columns)
            packed, state = functional.quantize_4bit(dense, blocksize=64, quant_type=quant_type)
            wanted = defined(packed, state, dense.numel())
            difference = (functional.dequantize_4bit(packed, state).reshape(-1) - wanted).abs().max().item()
            verdict = "right" if difference < 1e-5 else "misread"
            assert found.setdefault(columns, verdict) == verdict, (columns, quant_type)
            state.shape = torch.Size([1, dense.numel()])
            row = functional.dequantize_4bit(packed, state).reshape(-1)
            assert (row - wanted).abs().max().item() < 1e-5, (columns, quant_type)
    return found


def forget_avx512():
    """Overwrites what the library noted of the processor, found by the symbols of its own file."""
    path = lib._lib._name
    data = open(path, "rb").read()
    table, entry_size, count = struct.unpack_from("<Q10xHH", data, 40)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + entry_size * i) for i in range(count)]
    symbols = next(s for s in sections if s[1] == 2)
    names = sections[symbols[6]][4]
    known = {}
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", data, at)
        known[data[names + name : data.index(b"\0", names + name)].decode()] = value
    export = next(name for name in known if name == "cdequantize_blockwise_cpu_nf4_fp32")
    base = ctypes.cast(getattr(lib._lib, export), ctypes.c_void_p).value - known[export]
    notes = [value for name, value in known.items() if "supported_avx512f" in name and name.startswith("_ZZ")]
    for value in notes:
        ctypes.c_char.from_address(base + value).value = b"\0"
    return len(notes)


has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
right = {columns: "right" for columns in COLUMNS}
misread = {**right, 48: "misread", 80: "misread", 4304: "misread"}
found = seen()
print("bitsandbytes", bitsandbytes.__version__, "with AVX-512:" if has_avx512 else "without AVX-512:", found)
assert found == (misread if has_avx512 else right), found
if has_avx512:
    assert forget_avx512() > 0
    found = seen()
    print("told that there is none:", found)
    assert found == right, found
PY
