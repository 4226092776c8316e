"""Goldens of GRPO: AdamW steps by TRL's own trainer on fixed completions and rewards, on tiny models with a LoRA adapter of
formula weights (and one in full). One file, grpo.json.

Only what a model would write is given: _generate returns token ids of uneven lengths, the reward functions numbers (and
None). Advantages, log-probabilities when written, the reference's, losses and metrics are TRL's. A trainer is made with an
adapter that PEFT begins, so that its reference is the base, and the adapter's weights are set afterwards.
"""
import tempfile
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer
from philox import integers
from record import number, numbers, versions, write
from tiny_models import build, fill_adapter, saved_name

ROUNDS, RANK, ALPHA, SAMPLES, GROUP = 2, 4, 8, 8, 4
TRAINING = dict(learningRate=5e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weightDecay=0.01, maxGradNorm=1.0)
# Tokens of each prompt, and of its completions.
LENGTHS = [(9, (4, 7, 1, 5)), (3, (6, 2, 11, 3))]
# By round, completion and function.
ONE = [[[1], [0], [0.5], [0], [2], [2], [2], [-1]], [[0], [0], [1], [0], [0.25], [0.5], [0.75], [1]]]
SAME = [[[1], [1], [1], [1], [2], [2], [2], [-1]], [[0], [0], [1], [0], [0.5], [0.5], [0.5], [0.5]]]
TWO = [
    [[1, None], [0, 0.5], [None, None], [0, 1], [2, 0], [2, None], [None, 1], [-1, 0]],
    [[0, 1], [0, 1], [1, 0], [0, 0], [0.25, 1], [0.5, 0], [0.75, 1], [1, None]],
]
CASES = {
    # Model, our options, iterations, rewards, TRL's arguments.
    "defaults": ("llama-gqa-tied-llama3", {}, 1, ONE, {}),
    "divergence": ("llama-mha", dict(beta=0.3), 3, ONE, dict(beta=0.3)),
    "clipped": ("llama-mha", dict(clipEpsilon=0.3, clipEpsilonHigh=0.4), 3, ONE, dict(epsilon=0.3, epsilon_high=0.4)),
    "grpo": ("mistral-window", dict(lossType="grpo", scaleRewards="none", rewardWeights=[1, 0.5]), 2, TWO,
             dict(loss_type="grpo", scale_rewards="none", reward_weights=[1.0, 0.5])),
    "bnpo": ("llama-mha", dict(lossType="bnpo", scaleRewards="batch"), 2, SAME, dict(loss_type="bnpo", scale_rewards="batch")),
    "dr-grpo": ("llama-mha", dict(lossType="dr_grpo", maxNewTokens=16, scaleRewards="none"), 2, ONE,
                dict(loss_type="dr_grpo", max_completion_length=16, scale_rewards="none")),
    "sequence": ("llama-mha", dict(lossType="grpo", ratios="sequence", clipEpsilon=0.01, beta=0.2), 3, ONE,
                 dict(loss_type="grpo", importance_sampling_level="sequence", epsilon=0.01, beta=0.2)),
    "full": ("llama-gqa-tied-llama3", dict(method="full"), 2, ONE, {}),
}


def tokenizer_of(vocab: int) -> PreTrainedTokenizerFast:
    """Words are numbers, the numbers ids."""
    core = Tokenizer(models.WordLevel({str(i): i for i in range(vocab)}, unk_token="0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="1", eos_token="2", pad_token="0", unk_token="0")


def groups_of(seed: int, turn: int) -> list:
    """Ids above the special ones."""
    made = []
    for row, (prompt, completions) in enumerate(LENGTHS):
        ids = lambda k, n: [3 + i for i in integers(seed, 4000 + 200 * turn + 20 * row + k, n, 90)]
        made.append({"prompt": ids(0, prompt), "completions": [ids(1 + k, n) for k, n in enumerate(completions)]})
    return made


def trainer_of(case: str, seed: int, folder: str, held: dict):
    name, options, iterations, rewards, settings = CASES[case]
    model = build(name)

    def function(index: int):
        def reward(**_):
            return [row[index] for row in held["rewards"]]
        reward.__name__ = f"reward{index}"
        return reward

    full = options.get("method") == "full"
    adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    arguments = GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, report_to=[],
        per_device_train_batch_size=GROUP * len(LENGTHS), num_generations=GROUP, num_iterations=iterations, **settings)
    trainer = GRPOTrainer(
        model=model, reward_funcs=[function(i) for i in range(len(rewards[0][0]))], args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["5 6 7"] * 8}), processing_class=tokenizer_of(model.config.vocab_size),
        **({} if full else {"peft_config": adapter}))
    if not full:
        fill_adapter(trainer.model, seed)
    trainer.current_gradient_accumulation_steps = 1

    def generate(prompts):
        prompt_ids = [g["prompt"] for g in held["groups"] for _ in g["completions"]]
        completion_ids = [ids for g in held["groups"] for ids in g["completions"]]
        return prompt_ids, completion_ids, None, ["" for _ in completion_ids], None, {}, None, []

    trainer._generate = generate
    return trainer


def sampled(gradient) -> dict:
    """Its norm and some entries."""
    flat = gradient.flatten()
    stride = max(1, flat.numel() // SAMPLES)
    return {"norm": number(gradient.norm()), "stride": stride, "entries": numbers(flat[::stride][:SAMPLES], 8)}


def golden(case: str) -> dict:
    name, options, iterations, rewards, settings = CASES[case]
    seed = 900 + list(CASES).index(case)
    held = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(case, seed, folder, held)
    model = trainer.model
    model.train()
    parameters = {saved_name(n): p for n, p in sorted(model.named_parameters()) if p.requires_grad}
    optimizer = torch.optim.AdamW(
        list(parameters.values()), lr=TRAINING["learningRate"], betas=(TRAINING["beta1"], TRAINING["beta2"]),
        eps=TRAINING["epsilon"], weight_decay=TRAINING["weightDecay"])
    rounds = []
    for turn in range(ROUNDS):
        held |= {"groups": groups_of(seed, turn), "rewards": rewards[turn]}
        inputs = trainer._generate_and_score_completions([{"prompt": "5 6 7"}] * (GROUP * len(LENGTHS)))
        steps, gradients = [], {}
        for iteration in range(iterations):
            optimizer.zero_grad(set_to_none=True)
            loss = trainer._compute_loss(model, inputs)
            loss.backward()
            if iteration == iterations - 1:
                gradients = {n: sampled(p.grad.detach()) for n, p in parameters.items()}
            norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), TRAINING["maxGradNorm"])
            optimizer.step()
            kept = trainer._metrics["train"]
            metrics = {"clipRatio": number(kept["clip_ratio/region_mean"][-1])}
            if kept["kl"]:
                metrics["kl"] = number(kept["kl"][-1])
            steps.append({"loss": number(loss.item()), "gradNorm": number(norm.item()), "metrics": metrics})
        rounds.append({
            "groups": held["groups"], "rewards": held["rewards"], "advantages": numbers(inputs["advantages"], 7),
            "reward": number(kept["reward"][-1]), "rewardStd": number(kept["reward_std"][-1]), "steps": steps,
            # Of the last iteration, whose ratios are not 1.
            "gradients": gradients,
        })
    full = options.get("method") == "full"
    return {
        "model": name, "seed": seed, "options": options,
        "adapter": [] if full else [{"name": n, "shape": list(p.shape)} for n, p in parameters.items()],
        "rounds": rounds,
    }


def main() -> None:
    torch.set_num_threads(1)
    content = {"versions": versions("torch", "transformers", "peft", "trl", "numpy"), "rank": RANK, "alpha": ALPHA,
               "training": TRAINING, "groupSize": GROUP, "cases": {case: golden(case) for case in CASES}}
    write("grpo.json", content)


if __name__ == "__main__":
    main()
