#!/usr/bin/env bash
# What: node-llama-cpp 3.22.1 (llama.cpp v0.5.0) computes GELU on a CPU by a table of 65536 numbers: an F32 input is rounded
#   to f16, and the answer is the f16 number that the table has for it. The graph is F32 throughout, the file may be too.
# Why it matters: no F32 file of a model with GELU (Gemma 2, 3 and 4 among them) gives the log-probabilities of an engine that
#   computes in F32. Seven random layers of Gemma 3's shape are 3e-2 apart, where models with SiLU agree to 1e-5, so that
#   the difference is looked for in the export.
# Seen: {'equals the table': True, 'largest relative error': '9.1e-04', 'of silu': '1.1e-07'}
# Runs without lowrank, on ggml's own functions, on x86-64 Linux. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts node-llama-cpp@3.22.1
python3.11 -m venv venv
venv/bin/pip install --quiet numpy==2.3.4

venv/bin/python - "$folder/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64" <<'PY'
import ctypes
import sys

import numpy as np

base, cpu = (ctypes.CDLL(f"{sys.argv[1]}/lib{name}.so", mode=ctypes.RTLD_GLOBAL) for name in ("ggml-base", "ggml-cpu-x64"))


class Parameters(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def pointer(library, name, *types):
    function = getattr(library, name)
    function.restype, function.argtypes = ctypes.c_void_p, types
    return function


def activated(name, values):
    context = pointer(base, "ggml_init", Parameters)(Parameters(16 << 20, None, False))
    f32 = 0
    x = pointer(base, "ggml_new_tensor_1d", ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)(context, f32, len(values))
    data = pointer(base, "ggml_get_data_f32", ctypes.c_void_p)
    ctypes.memmove(data(x), values.ctypes.data, values.nbytes)
    y = pointer(base, name, ctypes.c_void_p, ctypes.c_void_p)(context, x)
    graph = pointer(base, "ggml_new_graph", ctypes.c_void_p)(context)
    pointer(base, "ggml_build_forward_expand", ctypes.c_void_p, ctypes.c_void_p)(graph, y)
    pointer(cpu, "ggml_graph_compute_with_ctx", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)(context, graph, 1)
    return np.ctypeslib.as_array(ctypes.cast(data(y), ctypes.POINTER(ctypes.c_float)), (len(values),)).copy()


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * x * (1 + 0.044715 * x * x)))


def error(found, exact):
    return f"{np.max(np.abs(found - exact) / np.abs(exact)):.1e}"


cpu.ggml_cpu_init()
values = np.random.default_rng(0).uniform(0.5, 8, 4096).astype(np.float32)
exact = values.astype(np.float64)
found = activated("ggml_gelu", values)
table = gelu(values.astype(np.float16).astype(np.float64)).astype(np.float16).astype(np.float32)
seen = {
    "equals the table": bool(np.array_equal(found, table)),
    "largest relative error": error(found, gelu(exact)),
    "of silu": error(activated("ggml_silu", values), exact / (1 + np.exp(-exact))),
}
print(seen)
assert seen["equals the table"], "GELU is no longer looked up in a table of f16 numbers"
assert float(seen["largest relative error"]) > 1e-4 > float(seen["of silu"]), "the errors have changed"
PY
