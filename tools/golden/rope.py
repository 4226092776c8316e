"""rope.json: inverse frequencies and attention factors of transformers for many config.json's, in every spelling.

Random shapes and parameters from a fixed seed. `frequencies` are those of a text of `length` tokens: short ones, the
longest before a scaling sets in, and longer ones. The plain type is the model class's own. `models` are tiny models of
formula weights (tiny_models.py): losses of texts, each by a fresh model, and greedy tokens across the length at which
the frequencies change.
"""
import copy, logging, random
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
import record
from tiny_models import sequence, stored_names, weight

logging.disable(logging.WARNING)
CLASSES = {"llama": (LlamaConfig, LlamaRotaryEmbedding), "qwen3": (Qwen3Config, Qwen3RotaryEmbedding)}
TYPES = ["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"]


def pick(draw, *values):
    return draw.choice(values)


def rope_of(draw, kind: str, head: int, longest: int) -> tuple[dict, dict]:
    """The RoPE's own object, and keys that stand beside it."""
    rope, beside = {}, {}
    share = 1.0
    if kind == "proportional" or (kind != "default" and draw.random() < 0.4):
        share = pick(draw, 0.25, 0.5, 0.75)
        (rope if draw.random() < 0.5 else beside)["partial_rotary_factor"] = share
    factor = pick(draw, 1.0, 1.5, 2.0, 4.0, 8, 40.0)
    if kind in ("linear", "dynamic", "llama3", "yarn") or (kind == "proportional" and draw.random() < 0.5):
        rope["factor"] = factor
    original = max(16, longest // pick(draw, 1, 2, 4, 8))
    if kind in ("yarn", "longrope", "llama3", "dynamic") and draw.random() < 0.8:
        rope["original_max_position_embeddings"] = original
    if kind in ("yarn", "longrope") and draw.random() < 0.3:
        beside["original_max_position_embeddings"] = max(16, longest // 2)
    if kind in ("yarn", "longrope") and draw.random() < 0.3:
        rope["attention_factor"] = round(draw.uniform(0.5, 2), 3)
    if kind == "yarn":
        if draw.random() < 0.15:
            rope["factor"] = None
        if draw.random() < 0.4:
            rope["mscale"], rope["mscale_all_dim"] = pick(draw, 1.0, 0.707), pick(draw, 0.0, 1.0, 0.8)
        if draw.random() < 0.4:
            rope["beta_fast"], rope["beta_slow"] = pick(draw, 16, 32.0, 64), pick(draw, 1, 2.0, None)
        if draw.random() < 0.4:
            rope["truncate"] = draw.random() < 0.5
    if kind == "longrope":
        pairs = int(head * share) // 2
        rope["short_factor"] = [round(draw.uniform(1, 1.3), 4) for _ in range(pairs)]
        rope["long_factor"] = [round(draw.uniform(1, 60), 4) for _ in range(pairs)]
        if draw.random() < 0.5:
            rope["factor"] = factor
    if kind == "llama3":
        rope["low_freq_factor"], rope["high_freq_factor"] = 1.0, pick(draw, 2.0, 4)
    return rope, beside


def config_of(draw, kind: str) -> dict:
    model_type = pick(draw, "llama", "qwen3")
    heads, head = pick(draw, 2, 4), pick(draw, 16, 32, 64)
    longest = pick(draw, 64, 128, 2048, 32768)
    theta = pick(draw, 10000.0, 500000, 1000000.0, 123.5)
    config = {"model_type": model_type, "vocab_size": 64, "hidden_size": heads * 16, "intermediate_size": 32,
              "num_hidden_layers": 1, "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": head,
              "max_position_embeddings": longest}
    rope, beside = rope_of(draw, kind, head, longest)
    name = pick(draw, "type", "rope_type")
    if kind != "default" or draw.random() < 0.5:
        rope[name] = kind
    spelling = pick(draw, "old", "new", "both")
    if spelling == "new":
        config["rope_parameters"] = {**rope, "rope_theta": theta}
    else:
        if draw.random() < 0.8:
            config["rope_theta"] = theta
        if rope:
            config["rope_scaling"] = rope
        if spelling == "both":
            other = pick(draw, "default", "linear")
            config["rope_parameters"] = {"rope_type": other, "rope_theta": 777.0, **({"factor": 3.0} if other == "linear" else {})}
            if not rope:
                config["rope_scaling"] = pick(draw, None, {})
    return {**config, **beside}


def case(config: dict) -> dict:
    config_class, rotary = CLASSES[config["model_type"]]
    parsed = config_class.from_dict(copy.deepcopy(config))
    kind = parsed.rope_parameters["rope_type"]
    function = rotary.compute_default_rope_parameters if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
    lengths = sorted({1, parsed.max_position_embeddings, parsed.max_position_embeddings + 1,
                      3 * parsed.max_position_embeddings + 7})
    tables, factor = [], None
    for length in lengths:
        frequencies, factor = function(parsed, seq_len=length)
        if not tables or not torch.equal(tables[-1][1], frequencies):
            tables.append((length, frequencies))
    return {"config": config, "attentionFactor": record.number(factor, 15),
            "frequencies": [{"length": n, **record.array(t)} for n, t in tables]}


SHAPE = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
         "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "llama-yarn": {"model_type": "llama", "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "qwen3-yarn-ramp": {"model_type": "qwen3", "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 50000.0, "factor": 8.0, "original_max_position_embeddings": 16,
        "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False, "mscale": 0.8, "mscale_all_dim": 0.5}},
    "llama-longrope": {"model_type": "llama", "original_max_position_embeddings": 16, "rope_scaling": {
        "type": "longrope", "short_factor": [1.0, 1.0, 1.1, 1.1, 1.2, 1.2, 1.3, 1.4],
        "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0]}},
    "qwen3-proportional": {"model_type": "qwen3", "rope_parameters": {
        "rope_type": "proportional", "rope_theta": 1000.0, "partial_rotary_factor": 0.25}},
    "llama-dynamic-original": {"model_type": "llama", "max_position_embeddings": 24, "rope_scaling": {
        "type": "dynamic", "factor": 3.0, "original_max_position_embeddings": 8}},
    "llama-partial-ignored": {"model_type": "llama", "partial_rotary_factor": 0.5, "rope_theta": 100.0},
}


def model_case(name: str, seed: int) -> dict:
    config = {**SHAPE, **copy.deepcopy(MODELS[name])}
    config_class, _ = CLASSES[config["model_type"]]

    def build():
        model = AutoModelForCausalLM.from_config(
            config_class.from_dict(copy.deepcopy(config)), attn_implementation="eager", dtype=torch.float32)
        state = model.state_dict()
        with torch.no_grad():
            for stream, key in enumerate(stored_names(model)):
                state[key].copy_(torch.from_numpy(weight(key, tuple(state[key].shape), seed, stream)))
        return model.eval()

    tensors = [{"name": n, "shape": list(build().state_dict()[n].shape)} for n in stored_names(build())]
    texts = []
    for i, length in enumerate((12, 20, 41, 90)):
        text = sequence(seed, 500 + i, length, config["vocab_size"], 1)
        with torch.no_grad():
            logits = build()(input_ids=torch.tensor([text["ids"]])).logits[0]
        loss = F.cross_entropy(logits[:-1], torch.tensor(text["ids"][1:]))
        texts.append({"ids": text["ids"], "loss": record.number(loss)})
    prompt = texts[0]["ids"]
    with torch.no_grad():
        # A mask of its own: generate() takes the padding id in a prompt for padding.
        given = torch.tensor([prompt])
        ids = build().generate(given, attention_mask=torch.ones_like(given), max_new_tokens=24, do_sample=False,
                               eos_token_id=None, pad_token_id=0)[0, len(prompt):].tolist()
    return {"name": name, "seed": seed, "config": config, "tensors": tensors, "texts": texts, "greedy": ids}


def main() -> None:
    draw = random.Random(20261130)
    cases = [case(config_of(draw, TYPES[i % len(TYPES)])) for i in range(84)]
    models = [model_case(name, 900 + i) for i, name in enumerate(MODELS)]
    record.write("rope.json", {"versions": record.versions("torch", "transformers"), "cases": cases, "models": models})


if __name__ == "__main__":
    main()
