"""Goldens of ggml's block types: the bytes that its own quantisers write, with and without importance, and what gguf-py
decodes of them. LOWRANK_LLAMA names a folder where node-llama-cpp is installed; its libggml-base.so does the work.

Inputs are the formulas of quant.py; importance is |u|^3 of another stream with a few zeros, as an importance matrix has.
"""
import ctypes, json, os, pathlib
import gguf
import numpy as np
from philox import unit
from quant import SEED, checksum, inputs
from record import array, versions, write

ROW, ROWS = 512, 2
STREAM_OF_IMPORTANCE = 99
TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "mxfp4": 39, "q4_k": 12, "q5_k": 13, "q6_k": 14}
KINDS = ["uniform", "cubed", "constant", "zero", "zero-block", "outlier", "positive"]


def library() -> tuple[ctypes.CDLL, str]:
    modules = pathlib.Path(os.environ["LOWRANK_LLAMA"]) / "node_modules"
    binary = modules / "@node-llama-cpp/linux-x64/bins/linux-x64/libggml-base.so"
    version = json.loads((modules / "node-llama-cpp/package.json").read_text())["version"]
    ggml = ctypes.CDLL(str(binary))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    return ggml, version


def importance() -> np.ndarray:
    u = unit(SEED, STREAM_OF_IMPORTANCE, ROW)
    return np.where(np.arange(ROW) % 37 == 0, 0.0, np.abs(u * u * u)).astype(np.float32)


def main():
    ggml, version = library()
    cases = []
    for name, number in TYPES.items():
        for stream, kind in enumerate(KINDS):
            values = np.ascontiguousarray(inputs(kind, stream, ROW * ROWS).numpy())
            for weighed in [False, True]:
                if weighed and name in ["q8_0", "mxfp4"]:
                    continue
                weights = importance() if weighed else None
                out = np.zeros(ROW * ROWS * 2, dtype=np.uint8)
                size = ggml.ggml_quantize_chunk(
                    number, values.ctypes.data, out.ctypes.data, 0, ROWS, ROW, weights.ctypes.data if weighed else None)
                data = out[:size]
                decoded = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(number))
                cases.append({"type": name, "kind": kind, "stream": stream, "count": ROW * ROWS, "weighed": weighed,
                              "bytes": array(data), "decodedChecksum": checksum(decoded)})
    write("gguf-blocks.json", {"versions": {**versions("gguf", "numpy"), "node-llama-cpp": version}, "seed": SEED,
                               "row": ROW, "importanceStream": STREAM_OF_IMPORTANCE, "cases": cases})


if __name__ == "__main__":
    main()
