"""Times PEFT + torch training steps on random weights of a given shape, and prints one JSON line.

The other half of the comparison is `lowrank bench`; run.mjs beside this file runs both in one go. With --turns it
prints "ready" and waits for a line on its input before each step and after the last.
    python peft_step.py --config config.json --method lora|full|qlora --dtype bf16|fp32 \
        --batch-size 2 --sequence-length 256 --steps 5 --threads 2 [--gradient-checkpointing]
"""
import argparse, json, os, resource, sys, threading, time

def peak_rss_bytes():
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def main():
    p = argparse.ArgumentParser()
    p.add_argument("--config", required=True)
    p.add_argument("--method", default="lora")
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--targets", default="all-linear", choices=["all-linear", "experts"])
    p.add_argument("--dtype", default="bf16")
    p.add_argument("--batch-size", type=int, default=2)
    p.add_argument("--sequence-length", type=int, default=256)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--gradient-checkpointing", action="store_true")
    p.add_argument("--device", default="cpu")
    # PEFT keeps adapters in f32 unless told otherwise, as lowrank does.
    p.add_argument("--half-adapters", action="store_true")
    p.add_argument("--turns", action="store_true")
    a = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(a.threads))
    import torch, transformers, peft
    from transformers import AutoConfig, AutoModelForCausalLM
    from peft import LoraConfig, get_peft_model
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    config = json.load(open(a.config))
    config.pop("quantization_config", None)
    cfg = AutoConfig.for_model(**config)
    cfg.use_cache = False
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[a.dtype]
    torch.set_default_dtype(dtype)
    # A dtype in the config outranks torch's default.
    model = AutoModelForCausalLM.from_config(cfg, dtype=dtype, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    model = model.to(a.device)
    if a.method == "qlora":
        import bitsandbytes as bnb
        def swap(module):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.Linear) and name != "lm_head":
                    q = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=child.bias is not None,
                                          compute_dtype=dtype, compress_statistics=True, quant_type="nf4")
                    q.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
                    setattr(module, name, q.to(a.device))
                else:
                    swap(child)
        swap(model)
        model.is_loaded_in_4bit = True
    if a.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    targets = dict(target_modules="all-linear")
    if a.targets == "experts":
        targets = dict(target_modules=[], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    if a.method != "full":
        model = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=2 * a.rank, task_type="CAUSAL_LM", **targets), autocast_adapter_dtype=not a.half_adapters)
    model.train()
    params = [q for q in model.parameters() if q.requires_grad]
    opt = torch.optim.AdamW(params, lr=1e-4)
    tokens = a.batch_size * a.sequence_length
    times = []
    loss = None
    def wait_for_turn():
        if a.turns:
            print("ready", flush=True)
            if not sys.stdin.readline():
                sys.exit(1)
    for step in range(a.warmup + a.steps):
        wait_for_turn()
        ids = torch.randint(0, cfg.vocab_size, (a.batch_size, a.sequence_length), device=a.device)
        t = time.perf_counter()
        opt.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        if a.device == "cuda":
            torch.cuda.synchronize()
        dt = time.perf_counter() - t
        if step >= a.warmup:
            times.append(dt)
    wait_for_turn()
    times.sort()
    out = {"tool": "peft", "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
           "method": a.method, "dtype": a.dtype, "batchSize": a.batch_size, "sequenceLength": a.sequence_length,
           "tokensPerSecond": {"best": tokens / times[0], "median": tokens / times[len(times) // 2]},
           "stepMs": 1000 * times[0], "loss": float(loss.detach()), "peakRssBytes": peak_rss_bytes(),
           "trainableParameters": sum(q.numel() for q in params)}
    if a.device == "cuda":
        out["peakBytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(out))

main()
