"""Golden of what llama.cpp's own converter writes for a tiny model of each architecture with a real tokenizer.

Runs convert_hf_to_gguf.py of the llama.cpp source folder that LOWRANK_LLAMA_SOURCE names (the source package of
llama-cpp-python on PyPI holds one, under vendor/llama.cpp) and reads its files with the gguf package. Needs
sentencepiece and ../shared/assets. Recorded are types and values of the metadata, long ones as length and SHA-256 of
their JSON, and the tensors' shapes and SHA-256: nothing of the tokenizers themselves, which belong to others.
"""
import hashlib, json, os, pathlib, shutil, subprocess, sys, tempfile
import numpy as np
from safetensors.numpy import save_file
from gguf import GGUFReader
from record import ROOT, versions, write
from tiny_models import MODELS, weight

TOKENIZERS = ROOT.parents[2] / "shared" / "assets" / "tokenizers"
LLAMA2 = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False,
          "tokenizer_class": "LlamaTokenizer"}
# Tiny model, tokenizer, and where its tokenizer_config.json comes from.
CASES = [
    ("llama-gqa-tied-llama3", "llama3.2", "llama3.1-instruct"), ("llama-linear", "llama2", LLAMA2),
    ("llama-head-dim", "llama2", LLAMA2), ("mistral-window", "llama2", LLAMA2), ("qwen2-tied", "qwen3", "qwen3"),
    ("qwen3", "qwen3", "qwen3"),
]


def make_folder(folder: pathlib.Path, name: str, tokenizer: str, configuration) -> int:
    """The model folder; returns its vocabulary: the tokenizer's, to whole 64s."""
    shutil.copyfile(TOKENIZERS / tokenizer / "derived/tokenizer.json", folder / "tokenizer.json")
    if (pieces := TOKENIZERS / tokenizer / "tokenizer.model").exists():
        shutil.copyfile(pieces, folder / "tokenizer.model")
    if isinstance(configuration, str):
        shutil.copyfile(TOKENIZERS / configuration / "tokenizer_config.json", folder / "tokenizer_config.json")
    else:
        (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    golden = json.loads((ROOT / "models" / f"{name}.json").read_text())
    content = json.loads((folder / "tokenizer.json").read_text())
    last = max([*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"])])
    config = {**golden["config"], "vocab_size": (last + 64) // 64 * 64}
    (folder / "config.json").write_text(json.dumps(config))
    tensors, seed = {}, MODELS[name][0]
    for stream, tensor in enumerate(golden["tensors"]):
        size = [config["vocab_size"] if n == golden["config"]["vocab_size"] else n for n in tensor["shape"]]
        tensors[tensor["name"]] = weight(tensor["name"], tuple(size), seed, stream).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return config["vocab_size"]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def described(field) -> dict:
    value, types = field.contents(), [t.name.lower() for t in field.types]
    if types[0] == "array":
        numbers = [float(v) if types[1].startswith("float") else v for v in value]
        numbers = [int(v) if isinstance(v, float) and v.is_integer() else v for v in numbers]
        return {"type": "array", "of": types[1], "length": len(value), "sha256": digest(numbers)}
    if isinstance(value, str) and len(value) > 100:
        return {"type": types[0], "length": len(value), "sha256": digest(value)}
    return {"type": types[0], "value": value}


def convert(source: pathlib.Path, name: str, tokenizer: str, configuration) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = pathlib.Path(scratch) / name, pathlib.Path(scratch) / "out.gguf"
        folder.mkdir()
        vocabulary = make_folder(folder, name, tokenizer, configuration)
        command = [sys.executable, source / "convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", "f32"]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(source / "gguf-py")})
        reader = GGUFReader(out)
        return {
            "tokenizer": tokenizer, "tokenizerConfig": configuration, "vocabularySize": vocabulary,
            "metadata": {k: described(f) for k, f in reader.fields.items() if not k.startswith("GGUF.")},
            "tensors": {t.name: {"type": t.tensor_type.name.lower(), "shape": [int(n) for n in reversed(t.shape)],
                                 "sha256": hashlib.sha256(t.data.tobytes()).hexdigest()} for t in reader.tensors},
        }


def main():
    source = os.environ.get("LOWRANK_LLAMA_SOURCE")
    if not source or not TOKENIZERS.exists():
        print("gguf-metadata.json left as it is: LOWRANK_LLAMA_SOURCE or ../shared/assets is absent", file=sys.stderr)
        return
    cases = {name: convert(pathlib.Path(source), name, *rest) for name, *rest in CASES}
    write("gguf-metadata.json", {"versions": versions("transformers", "torch", "numpy", "gguf"), "cases": cases})


if __name__ == "__main__":
    main()
