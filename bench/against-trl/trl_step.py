"""Times DPO steps of TRL + PEFT on random weights of a given shape and pairs of random tokens, and prints one JSON line.

The other half of the comparison is lowrank-steps.mjs; run.mjs beside this file runs both in one go. A step is what TRL's
trainer does in one: the reference's pass with the adapter off, the policy's pass, backward, clip, AdamW. It prints "ready"
and waits for a line on its input before each step and after the last.
"""
import argparse, json, os, resource, sys, tempfile, time

def peak_rss_bytes():
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def main():
    p = argparse.ArgumentParser()
    p.add_argument("--config", required=True)
    p.add_argument("--precision", default="bf16")
    for name, default in [("pairs", 4), ("length", 512), ("prompt", 256), ("steps", 6), ("warmup", 2), ("threads", 2)]:
        p.add_argument(f"--{name}", type=int, default=default)
    a = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(a.threads))
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch, transformers, peft, trl
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    config = AutoConfig.for_model(**json.load(open(a.config)))
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[a.precision]
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    core = Tokenizer(models.WordLevel({str(i): i for i in range(20)}, unk_token="0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="1", eos_token="2", pad_token="0", unk_token="0")
    rows = {"prompt": ["5 6 7"] * a.pairs, "chosen": ["8 9"] * a.pairs, "rejected": ["10"] * a.pairs}
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(output_dir=folder, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False,
                              report_to=[], per_device_train_batch_size=a.pairs, max_length=a.length, beta=0.1)
        trainer = DPOTrainer(model=model, args=arguments, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer,
                             peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model = trainer.model
    model.train()
    parameters = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    times, loss = [], None
    def wait_for_turn():
        print("ready", flush=True)
        if not sys.stdin.readline():
            sys.exit(1)
    def ids(count):
        return torch.randint(3, config.vocab_size, (count,)).tolist()
    for step in range(a.warmup + a.steps):
        batch = trainer.data_collator([{"prompt_ids": ids(a.prompt), "chosen_ids": ids(a.length - a.prompt),
                                        "rejected_ids": ids(a.length - a.prompt)} for _ in range(a.pairs)])
        wait_for_turn()
        t = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = trainer.compute_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step >= a.warmup:
            times.append(1000 * (time.perf_counter() - t))
    wait_for_turn()
    times.sort()
    print(json.dumps({"tool": "trl", "trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
                      "peft": peft.__version__, "withReferenceMs": times[0], "medianWithReferenceMs": times[len(times) // 2],
                      "loss": float(loss.detach()), "peakRssBytes": peak_rss_bytes()}))

main()
