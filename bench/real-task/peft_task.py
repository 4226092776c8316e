"""The real task by PEFT: fine-tunes a base on {"prompt","completion"} rows with LoRA (or in full) and measures
perplexity and BLEU on test rows. Prints one JSON line. The other half is lowrank; run.mjs beside this runs both.
Same rows, tokens, targets, batch, steps, optimizer and schedule as lowrank's run; orders and initial A differ.
"""
import argparse, json, os, random, time

def main():
    p = argparse.ArgumentParser()
    for name in ("model", "train", "test"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--method", default="lora")
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--alpha", type=float, default=32)
    p.add_argument("--steps", type=int, default=700)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--learning-rate", type=float, default=3e-3)
    p.add_argument("--warmup-steps", type=int, default=20)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--max-new-tokens", type=int, default=80)
    a = p.parse_args()
    import sacrebleu, torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, get_linear_schedule_with_warmup
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    rng = random.Random(a.seed)
    # The file's own tokenizer: AutoTokenizer rebuilds LlamaTokenizer from the vocabulary and drops the space that
    # tokenizer.json puts before a text that begins with one.
    special = AutoTokenizer.from_pretrained(a.model)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(a.model, "tokenizer.json"),
                                        bos_token=special.bos_token, eos_token=special.eos_token)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    model.config.use_cache = False
    read = lambda path: [json.loads(line) for line in open(path, encoding="utf-8")]
    def encode(row):
        prompt = tokenizer(row["prompt"]).input_ids
        answer = tokenizer(row["completion"], add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        return prompt, answer
    train = [encode(row) for row in read(a.train)]
    test_rows = read(a.test)
    test = [encode(row) for row in test_rows]
    def batch(rows):
        width = max(len(x) + len(y) for x, y in rows)
        ids = torch.full((len(rows), width), tokenizer.eos_token_id)
        labels = torch.full((len(rows), width), -100)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, (x, y) in enumerate(rows):
            n = len(x) + len(y)
            ids[i, :n] = torch.tensor(x + y)
            labels[i, len(x):n] = torch.tensor(y)
            mask[i, :n] = 1
        return ids, labels, mask
    @torch.no_grad()
    def perplexity():
        model.eval()
        total = count = 0
        for start in range(0, len(test), 32):
            ids, labels, mask = batch(test[start:start + 32])
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="sum")
            total += float(losses)
            count += int((labels[:, 1:] != -100).sum())
        return float(torch.exp(torch.tensor(total / count)))
    @torch.no_grad()
    def bleu():
        model.eval()
        order = sorted(range(len(test)), key=lambda i: len(test[i][0]))
        out = [""] * len(test)
        for start in range(0, len(order), 32):
            group = order[start:start + 32]
            width = max(len(test[i][0]) for i in group)
            ids = torch.full((len(group), width), tokenizer.eos_token_id)
            mask = torch.zeros((len(group), width), dtype=torch.long)
            for r, i in enumerate(group):
                x = test[i][0]
                ids[r, width - len(x):] = torch.tensor(x)
                mask[r, width - len(x):] = 1
            result = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=a.max_new_tokens, do_sample=False,
                                    use_cache=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id)
            for r, i in enumerate(group):
                # The end is also what pads, and tokenizer.json alone does not call it special.
                new = result[r, width:].tolist() + [tokenizer.eos_token_id]
                out[i] = tokenizer.decode(new[:new.index(tokenizer.eos_token_id)], skip_special_tokens=True)
        references = [row.get("references", [row["completion"]]) for row in test_rows]
        most = max(map(len, references))
        columns = [[refs[k] if k < len(refs) else None for refs in references] for k in range(most)]
        return sacrebleu.corpus_bleu(out, columns).score
    before = {"perplexity": perplexity(), "bleu": bleu()}
    if a.method == "lora":
        model = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=a.alpha, target_modules="all-linear", task_type="CAUSAL_LM"))
    params = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=a.learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, a.warmup_steps, a.steps)
    model.train()
    losses, seconds, tokens = [], 0.0, 0
    order = []
    for _ in range(a.steps):
        if len(order) < a.batch_size:
            order = rng.sample(range(len(train)), len(train))
        rows = [train[order.pop()] for _ in range(a.batch_size)]
        started = time.perf_counter()
        ids, labels, mask = batch(rows)
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        seconds += time.perf_counter() - started
        tokens += sum(len(x) + len(y) for x, y in rows)
    after = {"perplexity": perplexity(), "bleu": bleu()}
    print(json.dumps({"tool": "peft", "method": a.method, "seed": a.seed, "before": before, "after": after,
                      "firstLoss": losses[0], "lastLosses": sum(losses[-20:]) / 20, "seconds": seconds,
                      "tokens": tokens, "tokensPerSecond": tokens / seconds}))

main()
