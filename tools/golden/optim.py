"""Goldens of optimizers and schedules.

optim/adamw.json       torch.optim.AdamW, in float64, with the float32 run's distance
optim/schedules.json   factors of transformers' get_*_schedule_with_warmup, and of a constant rate
optim/lion.json        Lion as its authors wrote it (Chen et al. 2023, google/automl), in float64 likewise
optim/adamw-8bit.json  bitsandbytes' AdamW8bit on the CPU: parameters, codes and scales after some of ten steps

Parameters are stream 0, the gradient of step s (from 1) is stream s, both unit * their scale.
"""
import torch
import bitsandbytes as bnb
from torch.nn import Parameter
from transformers import (get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup,
                          get_linear_schedule_with_warmup, get_scheduler)
from models import deviation
from philox import uniform
from record import array, number, numbers, versions, write

STEPS = 10
DEFAULTS = dict(learningRate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weightDecay=0.01, maxGradNorm=None,
                paramScale=1.0, gradScale=1.0, count=37)
ADAMW = {
    "defaults": {},
    "no-decay": dict(weightDecay=0.0, learningRate=1e-2),
    "betas": dict(beta1=0.8, beta2=0.95, weightDecay=0.1, learningRate=3e-2),
    "tiny-gradients": dict(gradScale=1e-7, epsilon=1e-6),
    "huge-gradients": dict(gradScale=1e6, epsilon=1e-8),
    "clipped": dict(gradScale=3.0, maxGradNorm=1.0, learningRate=1e-2),
    "clip-not-reached": dict(gradScale=0.01, maxGradNorm=1.0),
    "zero-gradients": dict(gradScale=0.0, weightDecay=0.1, learningRate=1e-2),
}


def take_steps(optimizer, p, s, seed, dtype):
    """The parameters after each step, and each gradient's norm before clipping."""
    params, norms = [], []
    for step in range(1, STEPS + 1):
        p.grad = tensor(seed, step, s["count"], s["gradScale"], dtype)
        norms.append(p.grad.norm().item())
        if s["maxGradNorm"] is not None:
            torch.nn.utils.clip_grad_norm_([p], s["maxGradNorm"])
        optimizer.step()
        params.append(p.detach().clone())
    return params, norms


def tensor(seed, stream, count, scale, dtype=torch.float32):
    return torch.from_numpy(uniform(seed, stream, (count,), scale)).to(dtype)


def adamw(seed, s):
    def run(dtype):
        p = Parameter(tensor(seed, 0, s["count"], s["paramScale"], dtype))
        optimizer = torch.optim.AdamW([p], lr=s["learningRate"], betas=(s["beta1"], s["beta2"]),
                                      eps=s["epsilon"], weight_decay=s["weightDecay"])
        params, norms = take_steps(optimizer, p, s, seed, dtype)
        state = optimizer.state[p]
        return torch.stack(params), norms, state["exp_avg"], state["exp_avg_sq"]

    params, norms, m, v = run(torch.float64)
    return {**s, "seed": seed, "params": array(params), "gradNorms": numbers(norms), "m": array(m), "v": array(v),
            "float32Deviation": deviation(params, run(torch.float32)[0])}


# Signs make every rounding matter where a mix is near zero, and zero gradients move nothing.
LION = {
    "defaults": dict(beta2=0.99, learningRate=1e-4),
    "decay": dict(beta2=0.99, weightDecay=0.1, learningRate=3e-3),
    "betas": dict(beta1=0.95, beta2=0.98, learningRate=3e-2),
    "tiny-gradients": dict(beta2=0.99, gradScale=1e-7),
    "clipped": dict(beta2=0.99, gradScale=3.0, maxGradNorm=1.0, learningRate=1e-2),
    "zero-gradients": dict(beta2=0.99, gradScale=0.0, weightDecay=0.1, learningRate=1e-2),
}


class Lion(torch.optim.Optimizer):
    """google/automl's lion_pytorch.py: decay, sign of the interpolation, then the moment."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                beta1, beta2 = group["betas"]
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                mixed = m * beta1 + p.grad * (1 - beta1)
                p.add_(torch.sign(mixed), alpha=-group["lr"])
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


def lion(seed, s):
    def run(dtype):
        p = Parameter(tensor(seed, 0, s["count"], s["paramScale"], dtype))
        optimizer = Lion([p], s["learningRate"], (s["beta1"], s["beta2"]), s["weightDecay"])
        params, norms = take_steps(optimizer, p, s, seed, dtype)
        return torch.stack(params), norms, optimizer.state[p]["exp_avg"]

    params, norms, m = run(torch.float64)
    return {**s, "seed": seed, "params": array(params), "gradNorms": numbers(norms), "m": array(m),
            "float32Deviation": deviation(params, run(torch.float32)[0])}


def schedule(make, warmup, total, **more):
    p = Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    scheduler = make(optimizer, warmup, total, **more)
    factors = []
    for _ in range(total):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return {"warmupSteps": warmup, "totalSteps": total, "factors": numbers(factors, 12)}


SCHEDULES = {
    "constant": lambda o, w, t: get_constant_schedule_with_warmup(o, w),
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
}

def named(name, o, w, t, **kwargs):
    return get_scheduler(name, o, num_warmup_steps=w, num_training_steps=t, scheduler_specific_kwargs=kwargs)


# What ends at a floor, by the options that lowrank has for it. A linear one is the polynomial of power 1.
FLOORS = [
    ("linear", dict(floor=0.1), lambda o, w, t: named("polynomial", o, w, t, lr_end=0.1, power=1.0)),
    ("cosine", dict(floor=0.1), lambda o, w, t: named("cosine_with_min_lr", o, w, t, min_lr_rate=0.1)),
    ("cosine", dict(floor=0.25), lambda o, w, t: named("cosine_with_min_lr", o, w, t, min_lr=0.25)),
]
STABLE = [(floor, steps, shape) for floor in (0.0, 0.2) for steps in (1, 4) for shape in ("cosine", "linear", "1-sqrt")]


def floors():
    cases = []
    for name, more, make in FLOORS:
        cases += [{"name": name, **more, **schedule(make, w, t)} for w, t in ((0, 12), (3, 12), (4, 5))]
    for floor, steps, shape in STABLE:
        def make(o, w, t):
            return named("warmup_stable_decay", o, w, t, num_decay_steps=steps, decay_type=shape, min_lr_ratio=floor)
        more = {"floor": floor, "decaySteps": steps, "decayShape": shape}
        cases += [{"name": "wsd", **more, **schedule(make, w, t)} for w, t in ((0, 12), (3, 12), (2, 6))]
    return cases


# 700 elements: two full blocks of 256 and a tail. "zeroBlock": gradients of elements 256..511 are 0.
ADAMW_8BIT = {
    "defaults": dict(zeroBlock=False),
    "decay": dict(learningRate=1e-2, weightDecay=0.1, zeroBlock=False),
    "tiny-gradients": dict(gradScale=1e-6, zeroBlock=False),
    "zero-block": dict(zeroBlock=True),
}

KEPT_STEPS = (1, 2, 3, 10)


def adamw_8bit(seed, s):
    p = Parameter(tensor(seed, 0, s["count"], s["paramScale"]))
    optimizer = bnb.optim.AdamW8bit([p], lr=s["learningRate"], betas=(s["beta1"], s["beta2"]), eps=s["epsilon"],
                                    weight_decay=s["weightDecay"], min_8bit_size=1)
    steps = []
    for step in range(1, STEPS + 1):
        p.grad = tensor(seed, step, s["count"], s["gradScale"])
        if s["zeroBlock"]:
            p.grad[256:512] = 0
        optimizer.step()
        state = optimizer.state[p]
        assert state["state1"].dtype == torch.uint8
        if step in KEPT_STEPS:
            steps.append({"step": step, "params": array(p), "m": array(state["state1"]), "v": array(state["state2"]),
                          "mScales": array(state["absmax1"]), "vScales": array(state["absmax2"])})
    return {**s, "seed": seed, "steps": steps}


def main():
    torch.set_num_threads(1)
    write("optim/adamw.json", {
        "versions": versions("torch", "numpy"), "steps": STEPS,
        "cases": {name: adamw(700 + i, {**DEFAULTS, **s}) for i, (name, s) in enumerate(ADAMW.items())},
    })
    write("optim/lion.json", {
        "versions": versions("torch", "numpy"), "steps": STEPS,
        "cases": {name: lion(730 + i, {**DEFAULTS, **s}) for i, (name, s) in enumerate(LION.items())},
    })
    write("optim/schedules.json", {
        "versions": versions("torch", "transformers"),
        "meaning": "factors[s] multiplies the learning rate of update s, counted from 0",
        "cases": {name: [schedule(make, w, t) for w, t in ((0, 12), (3, 12), (1, 1), (5, 5), (8, 5))]
                  for name, make in SCHEDULES.items()},
        "floors": floors(),
    })
    write("optim/adamw-8bit.json", {
        "versions": versions("bitsandbytes", "torch", "numpy"), "blockSize": 256,
        "cases": {name: adamw_8bit(750 + i, {**DEFAULTS, "count": 700, **s})
                  for i, (name, s) in enumerate(ADAMW_8BIT.items())},
    })


if __name__ == "__main__":
    main()
