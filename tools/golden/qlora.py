"""Goldens of QLoRA: the linear layers of the blocks in nested NF4, LoRA on all of them.

bitsandbytes quantises on the CPU; the model is then trained with the dequantised float32 values, in float64
arithmetic. Two bases: "llama-rows-64", which also runs through bitsandbytes' Linear4bit and PEFT as they are, in
float32; and "llama-mha", whose rows of 48 make blocks of 64 cross rows. That one is decoded by definition
(code * scale of the flattened index): bitsandbytes 0.50's CPU decoder starts a new block with every row and so
misreads such weights. Output: test/golden/qlora.json.
"""
import torch
import bitsandbytes as bnb
from models import (ALPHA, RANK, TRAINING, both, description, deviation, gradients, logits_of, packed_sequences, train,
                    training_batches, with_adapter)
from quant import decode
from record import array, number, numbers, versions, write
from tiny_models import MODELS, UNLISTED, build, sequence


def block_linears(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}


def dequantized(weight):
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    scales = bnb.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    values = decode(packed, scales, state.code, 64, weight.numel()).reshape(weight.shape)
    if weight.shape[1] % 64 == 0:
        assert torch.equal(values, bnb.functional.dequantize_4bit(packed, state)), "bitsandbytes' own decoder differs"
    return values


def quantized(name, dtype):
    """The tiny model with quantised and dequantised weights."""
    model = build(name)
    with torch.no_grad():
        for layer in block_linears(model).values():
            layer.weight.copy_(dequantized(layer.weight))
    return model.to(dtype)


def with_linear4bit(name):
    """The tiny model with bitsandbytes' Linear4bit layers."""
    model = build(name)
    for path, layer in block_linears(model).items():
        inner = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, compute_dtype=torch.float32,
                                  compress_statistics=True, quant_type="nf4")
        inner.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
        parent, _, last = path.rpartition(".")
        setattr(model.get_submodule(parent), last, inner.to("cpu"))
    model.is_loaded_in_4bit = True
    return model


def case(name):
    seed = {**MODELS, **UNLISTED}[name][0]
    vocab = build(name).config.vocab_size
    ids = sequence(seed, 2000, 40, vocab, 4)["ids"]
    packed, batches = packed_sequences(seed, vocab), training_batches(seed, vocab)
    make = lambda dtype: with_adapter(quantized(name, dtype), seed).to(dtype)
    with torch.no_grad():
        exact, rough = both(lambda dtype: logits_of(quantized(name, dtype).eval(), ids))
        plain = logits_of(build(name), ids)
    (loss, grads), (loss32, grads32) = both(lambda dtype: gradients(make(dtype), packed))
    (losses, norms), (losses32, norms32) = both(lambda dtype: train(make(dtype), batches))
    training = {**TRAINING, "batches": batches, "losses": numbers(losses, 12), "gradNorms": numbers(norms, 12),
                "lossesFloat32": numbers(losses32), "gradNormsFloat32": numbers(norms32)}
    if name in UNLISTED:
        theirs, their_norms = train(with_adapter(with_linear4bit(name), seed).train(), batches)
        training |= {"lossesBitsandbytes": numbers(theirs), "gradNormsBitsandbytes": numbers(their_norms)}
    return {
        **description(build(name), seed),
        "adapter": [{"name": n, "shape": list(g.shape)} for n, g in grads.items()],
        "sequence": {"ids": ids, "logits": array(exact), "float32Deviation": deviation(exact, rough),
                     "distanceFromUnquantized": deviation(exact, plain)},
        "packed": {"sequences": packed, "loss": number(loss, 12), "lossFloat32": number(loss32),
                   "float32Deviation": max(deviation(grads[n], grads32[n]) for n in grads),
                   "gradients": {n: {"norm": number(g.norm(), 10), "sum": number(g.sum(), 10)} for n, g in grads.items()}},
        "training": training,
    }


def main():
    torch.set_num_threads(1)
    write("qlora.json", {
        "versions": versions("torch", "transformers", "peft", "bitsandbytes"),
        "rank": RANK, "alpha": ALPHA, "targets": "all-linear",
        "quantization": {"quantType": "nf4", "blockSize": 64, "nested": True, "skipped": ["lm_head"]},
        "cases": {name: case(name) for name in ("llama-rows-64", "llama-mha")},
    })


if __name__ == "__main__":
    main()
