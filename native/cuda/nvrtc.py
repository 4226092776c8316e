# Compiles CUDA C++ to PTX with NVIDIA's run-time compiler, a shared library that PyPI has; build-ptx.mjs calls it. stdin:
# {"library", "source", "name", "options"} as JSON; stdout: {"ptx"} or {"problem"}. No card and no toolkit are needed.
import ctypes
import json
import sys

request = json.load(sys.stdin)
nvrtc = ctypes.CDLL(request["library"])
program = ctypes.c_void_p()


def text_of(size_of, fill):
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    fill(program, buffer)
    return buffer.value.decode()


nvrtc.nvrtcCreateProgram(
    ctypes.byref(program), request["source"].encode(), request["name"].encode(), 0, None, None
)
options = [option.encode() for option in request["options"]]
result = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
log = text_of(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
if log.strip():
    print(log, file=sys.stderr)
if result == 0:
    answer = {"ptx": text_of(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)}
else:
    answer = {"problem": log}
json.dump(answer, sys.stdout)
