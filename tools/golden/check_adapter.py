"""Loads an adapter folder with PEFT and compares its logits with those of another program.

    python check_adapter.py --base FOLDER --adapter FOLDER --logits FILE.json

FILE.json: {"ids": [T ids], "logits": [T rows of V numbers]}, or a list of such objects.
Prints {"maxRelativeDifference", "maxAbsoluteDifference", "adapterEffect", "loadedTensors", "missing", "unexpected",
"versions"}: differences are divided by the largest magnitude of PEFT's logits; adapterEffect is how far the adapter
moves the logits in the same measure (0 would mean that it was not loaded). Arithmetic is float32, eager attention.
"""
import argparse, json, pathlib
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from record import versions


def logits_of(model, cases):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([c["ids"]])).logits[0].double() for c in cases]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--logits", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = json.loads(pathlib.Path(args.logits).read_text())
    cases = cases if isinstance(cases, list) else [cases]
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32, attn_implementation="eager").eval()
    plain = logits_of(base, cases)
    model = PeftModel.from_pretrained(base, args.adapter).eval()
    with safe_open(pathlib.Path(args.adapter) / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    expected = {n.replace(".default", "").replace(".modules_to_save", "").replace("_vector.weight", "_vector")
                for n, _ in model.named_parameters() if "lora_" in n or "modules_to_save" in n}
    theirs = logits_of(model, cases)
    scale = max(t.abs().max().item() for t in theirs)
    ours = [torch.tensor(c["logits"], dtype=torch.float64) for c in cases]
    for mine, peft in zip(ours, theirs):
        if mine.shape != peft.shape:
            raise SystemExit(f"logits have shape {list(mine.shape)}, PEFT's {list(peft.shape)}")
    largest = max((a - b).abs().max().item() for a, b in zip(ours, theirs))
    effect = max((a - b).abs().max().item() for a, b in zip(plain, theirs))
    print(json.dumps({
        "maxRelativeDifference": largest / scale, "maxAbsoluteDifference": largest, "adapterEffect": effect / scale,
        "loadedTensors": len(stored & expected), "missing": sorted(expected - stored), "unexpected": sorted(stored - expected),
        "versions": versions("torch", "transformers", "peft"),
    }))


if __name__ == "__main__":
    main()
