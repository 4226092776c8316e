"""Golden of the types that llama.cpp's own quantize gives the tensors of a file, by what the file is named after.

Arguments: GGUF files in f32, as `lowrank export --type f32` writes them of small models (widths of 256, so that
K-quants are possible; layers and experts as the file's name says). LOWRANK_LLAMA as in gguf_blocks.py.
"""
import ctypes, json, os, pathlib, sys, tempfile
import gguf
from record import versions, write

FTYPES = {"q4_0": 2, "q8_0": 7, "q5_0": 8, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18}


class Parameters(ctypes.Structure):
    """As much of llama_model_quantize_params as is set here; the rest is kept as the defaults have it."""
    _fields_ = [("threads", ctypes.c_int32), ("ftype", ctypes.c_int), ("rest", ctypes.c_uint8 * 128)]


def library() -> tuple[ctypes.CDLL, str]:
    modules = pathlib.Path(os.environ["LOWRANK_LLAMA"]) / "node_modules"
    folder = modules / "@node-llama-cpp/linux-x64/bins/linux-x64"
    for pattern in ["libggml-base.so", "libggml.v*.so", "libllama.v*.so"]:
        llama = ctypes.CDLL(str(next(folder.glob(pattern))), mode=ctypes.RTLD_GLOBAL)
    llama.llama_model_quantize_default_params.restype = Parameters
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    llama.llama_backend_init()
    return llama, json.loads((modules / "node-llama-cpp/package.json").read_text())["version"]


def described(path: str) -> dict:
    reader = gguf.GGUFReader(path)
    arch = reader.get_field("general.architecture").contents()
    experts = reader.get_field(f"{arch}.expert_count")
    return {"architecture": arch, "layers": int(reader.get_field(f"{arch}.block_count").contents()),
            "experts": int(experts.contents()) if experts else 1,
            "tensors": {t.name: [int(n) for n in reversed(t.shape)] for t in reader.tensors}}


def main():
    llama, version = library()
    models = []
    for path in sys.argv[1:]:
        model = described(path)
        model["types"] = {}
        for name, ftype in FTYPES.items():
            with tempfile.TemporaryDirectory() as folder:
                out = f"{folder}/out.gguf"
                parameters = llama.llama_model_quantize_default_params()
                parameters.threads, parameters.ftype = 1, ftype
                if llama.llama_model_quantize(path.encode(), out.encode(), ctypes.byref(parameters)) != 0:
                    raise RuntimeError(f"{path}: llama.cpp did not quantize it to {name}")
                types = {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(out).tensors}
            model["types"][name] = [types[tensor] for tensor in model["tensors"]]
        models.append(model)
    write("gguf-mix.json", {"versions": {**versions("gguf"), "node-llama-cpp": version}, "models": models})


if __name__ == "__main__":
    main()
