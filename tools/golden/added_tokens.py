"""added-tokens.json: ids of Rust's tokenizers for random texts full of added tokens of every kind.

Small BPE models over single characters; added tokens draw single_word, lstrip, rstrip, normalized and special at random
and overlap each other; normalizers and pre-tokenizers are those that models use.
"""
import json, random
from tokenizers import AddedToken, Tokenizer
from record import versions, write

ALPHABET = "abdgo s_1é中\u0301\t.\u00a0Dß"
MERGES = [("d", "o"), ("do", "g"), ("a", "b"), ("▁", "a")]
NORMALIZERS = [
    None,
    {"type": "Lowercase"},
    {"type": "NFKC"},
    {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                          {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
]
PRE_TOKENIZERS = [
    None,
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False},
    {"type": "Whitespace"},
]
CONTENTS = ["dog", "do", "og", "<|x|>", "a b", " a", "D", "é", "_1", "gs ", "中", "dog dog", "ab"]


def tokenizer_json(draw) -> dict:
    pieces = ["<unk>", *dict.fromkeys([*ALPHABET, *ALPHABET.lower(), "▁"]), *("".join(m) for m in MERGES)]
    pieces = list(dict.fromkeys(pieces))
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": draw.choice(NORMALIZERS), "pre_tokenizer": draw.choice(PRE_TOKENIZERS),
        "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": draw.random() < 0.5, "vocab": {p: i for i, p in enumerate(pieces)},
                  "merges": [list(m) for m in MERGES]},
    }


def case(draw) -> dict:
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(draw)))
    for content in draw.sample(CONTENTS, 5):
        special = draw.random() < 0.3
        flags = {name: draw.random() < 0.4 for name in ("single_word", "lstrip", "rstrip", "normalized")}
        token = AddedToken(content, special=special, **flags)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    texts = []
    for _ in range(8):
        parts = [draw.choice(CONTENTS) if draw.random() < 0.4 else draw.choice(ALPHABET) for _ in range(draw.randint(0, 14))]
        text = "".join(parts)
        texts.append([text, tokenizer.encode(text).ids])
    described = json.loads(tokenizer.to_str())
    return {"normalizer": described["normalizer"], "preTokenizer": described["pre_tokenizer"],
            "ignoreMerges": described["model"]["ignore_merges"], "added": described["added_tokens"], "texts": texts}


def main() -> None:
    draw = random.Random(20261130)
    cases = [case(draw) for _ in range(60)]
    model = json.loads(json.dumps(tokenizer_json(draw)["model"]))
    write("added-tokens.json", {"versions": versions("tokenizers"), "vocab": model["vocab"], "merges": model["merges"], "cases": cases})


if __name__ == "__main__":
    main()
