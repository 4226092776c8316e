"""bpe-words.json: ids of Rust's tokenizers for every way in which models cut text into words before byte-pair encoding.

One vocabulary trained on the sentences below over bytes, one over characters; pre-tokenizers, byte fallback, unknown tokens
and ignore_merges as published models have them. Texts are random and hostile: white space of all kinds, runs of hundreds of
letters, halves of emoji, unassigned characters.
"""
import json, random
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from record import versions, write

SENTENCES = [
    "The quick brown fox doesn't jump over the lazy dog; they'll jump over it 12345 times, I'd say.",
    "    def f(x):\n        return x ** 2  # square\n\n\n", "naïve café, straße, Ωmega, 東京タワー, Привет мир",
    "https://example.org/a/b?c=1&d=2 WE'LL SEE 3.14159 1,000,000", "aaaa bbbb aaaa abab abab  the the the thethe",
] * 3
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}"
          r"\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(use_regex: bool, prefix: bool = False) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def split(pattern: str, behavior: str = "Isolated") -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": list(steps)}


SPACES = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                               {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}


def metaspace(split: bool, scheme: str) -> dict:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


# Name: (over bytes, normalizer, pre-tokenizer, further fields of the model).
CASES = {
    "gpt2": (True, None, byte_level(True), {}),
    "gpt2, space before": (True, None, byte_level(True, True), {}),
    "llama3": (True, None, sequence(split(LLAMA3), byte_level(False)), {"ignore_merges": True}),
    "qwen": (True, {"type": "NFC"}, sequence(split(QWEN), byte_level(False)), {}),
    "tekken": (True, None, sequence(split(TEKKEN), byte_level(False)), {"ignore_merges": True}),
    "digits first": (True, None, sequence({"type": "Digits", "individual_digits": True}, byte_level(True)), {}),
    "several patterns": (True, None, sequence(split(r"\p{N}{1,3}"), split("[一-龥ぁ-ヿ]+"), split(LLAMA3), byte_level(False)), {}),
    "digits together": (True, None, sequence({"type": "Digits", "individual_digits": False}, byte_level(False)), {}),
    "spaces to the word before": (True, None, sequence(split(r"\s", "MergedWithPrevious"), byte_level(False)), {}),
    "spaces to the next word": (True, None, sequence(split(r"\s", "MergedWithNext"), byte_level(False)), {}),
    "spaces together": (True, None, sequence(split(r"\s", "Contiguous"), byte_level(False)), {}),
    "spaces removed": (True, None, sequence(split(r"\s", "Removed"), byte_level(False)), {}),
    "words kept": (True, None, sequence({**split(r"\w+", "Removed"), "invert": True}, byte_level(False)), {}),
    "bytes whole": (True, None, byte_level(False), {}),
    "llama2": (False, SPACES, None, {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}),
    "unknown apart": (False, SPACES, None, {"unk_token": "<unk>"}),
    "unknown together": (False, SPACES, None, {"unk_token": "<unk>", "fuse_unk": True}),
    "unknown dropped": (False, SPACES, None, {}),
    "metaspace words": (False, None, metaspace(True, "always"), {"unk_token": "<unk>", "byte_fallback": True}),
    "metaspace whole": (False, None, metaspace(False, "first"), {"unk_token": "<unk>", "fuse_unk": True}),
}

SPACE = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\x0b", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u3000", "\ufeff", "\u200b", "▁"]
WORDS = ["the", "Jump", "doesn't", "'LL", "'s", "it’s", "12345", "٣٤", "²", "café", "e\u0301", "東京", "тест", "ǅ", "ſ", "👩‍👩‍👧", "𝔘", "a" * 90, "ab" * 200,
         "....", "/*", "_x_", "<unk>", "\x00", "\U000E0001", "\uE000", "\ufffd", "=" * 50]


def trained(over_bytes: bool) -> tuple[dict, list]:
    tokenizer = Tokenizer(models.BPE())
    if over_bytes:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        alphabet = []
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, min_frequency=2, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    vocab, merges = model["vocab"], model["merges"]
    if not over_bytes:
        for piece in ["<unk>", "▁▁", "▁▁▁▁", *(f"<0x{b:02X}>" for b in range(256))]:
            vocab.setdefault(piece, len(vocab))
        merges += [["▁", "▁"], ["▁▁", "▁▁"]]
    return vocab, merges


def text(draw: random.Random) -> str:
    parts = []
    for _ in range(draw.randint(0, 14)):
        kind = draw.random()
        if kind < 0.4:
            parts.append(draw.choice(WORDS) if kind < 0.2 else draw.choice(SENTENCES)[: draw.randint(1, 30)])
        elif kind < 0.8:
            parts.append(draw.choice(SPACE) * draw.choice([1, 1, 1, 2, 5]))
        else:
            parts.append(chr(draw.choice([draw.randint(0, 0x2FF), draw.randint(0x370, 0xD7FF), draw.randint(0xE000, 0x1FFFF)])))
    return "".join(parts)


def main() -> None:
    draw = random.Random(20261201)
    models_of = {True: trained(True), False: trained(False)}
    texts = ["", " ", "a", "x" * 300, " " * 60, *(text(draw) for _ in range(60))]
    cases = {}
    for name, (over_bytes, normalizer, pre_tokenizer, fields) in CASES.items():
        vocab, merges = models_of[over_bytes]
        model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                 "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **fields}
        tokenizer = Tokenizer.from_str(json.dumps({
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": None, "model": {**model, "vocab": vocab, "merges": merges}}))
        cases[name] = {"bytes": over_bytes, "normalizer": normalizer, "preTokenizer": pre_tokenizer, "model": model,
                       "ids": [" ".join(map(str, tokenizer.encode(each).ids)) for each in texts]}
    write("bpe-words.json", {
        "versions": versions("tokenizers"), "texts": texts, "cases": cases,
        "models": {"bytes": {"vocab": models_of[True][0], "merges": models_of[True][1]},
                   "characters": {"vocab": models_of[False][0], "merges": models_of[False][1]}}})


if __name__ == "__main__":
    main()
