"""Goldens of tokenizers and chat templates: ids and hashes only, since the files themselves belong to others.

Reads the tokenizer files under ../shared/assets (beside the repository) and is skipped where they are absent; so is
the test that uses test/golden/text.json. Strings are our own. A rendered template is recorded as its length and
SHA-256.
"""
import hashlib, json, pathlib, sys
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template
from record import ROOT, versions, write

ASSETS = ROOT.parents[2] / "shared" / "assets"
TOKENIZERS = [
    "tokenizers/gpt2/tokenizer.json", "tokenizers/llama2/derived/tokenizer.json",
    "tokenizers/llama3.2/derived/tokenizer.json", "tokenizers/qwen3/derived/tokenizer.json",
    "models/tinystories-656k/tokenizer.json", "models/stories260k/hf/tokenizer.json",
]
TEXTS = [
    "", " ", "a", "Hello, world!", " leading and trailing ", "two  spaces\tand a tab\nnew line\r\nand CRLF\n\n\n",
    "naïve café, straße, Ωmega, 東京タワー, Привет", "family: 👨‍👩‍👧 flag: 🇫🇷", "e\u0301 is not \u00e9",
    "1234567890 3.14159 1,000,000 2^10", "don't I'll we've THEY'RE", "def f(x):\n    return x ** 2  # square\n",
    "<s>not a token</s> <|im_start|>user <|end_of_text|>", "{\"json\": [1, 2, null]}", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u200bzero\u00a0width\ufeff", "\x00\x01\x7f",
]
# Template file or tokenizer_config.json, and the tokenizer whose ids of the rendering are recorded.
CONFIGS = {
    "tokenizers/llama3.1-instruct/tokenizer_config.json": "tokenizers/llama3.2/derived/tokenizer.json",
    "tokenizers/qwen3/tokenizer_config.json": "tokenizers/qwen3/derived/tokenizer.json",
}
CONVERSATIONS = {
    "question": ([{"role": "user", "content": "What is 2 + 2?"}], True),
    "answered": ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"},
                  {"role": "assistant", "content": "4"}], False),
    "two-turns": ([{"role": "user", "content": " Bonjour !\n"}, {"role": "assistant", "content": "Hi — 你好"},
                   {"role": "user", "content": "Bye"}], True),
}


def token_text(value):
    return value["content"] if isinstance(value, dict) else value


def rendered(template, conversation, **variables):
    messages, prompt = CONVERSATIONS[conversation]
    if "strftime_now" in template and "date_string" not in template:
        return None, {"skipped": "prints today's date"}
    try:
        (text,), _ = render_jinja_template(conversations=[messages], chat_template=template,
                                           add_generation_prompt=prompt, date_string="01 Jan 2026", **variables)
    except (TemplateError, TypeError) as error:  # a TypeError is the template's own, e.g. a loop over absent tools
        return None, {"refused": type(error).__name__}
    return text, {"length": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def chat(path, tokenizer):
    config = json.loads((ASSETS / path).read_text())
    found = {}
    for name in CONVERSATIONS:
        text, result = rendered(config["chat_template"], name, bos_token=token_text(config.get("bos_token")),
                                eos_token=token_text(config.get("eos_token")))
        if text is not None:
            result["ids"] = tokenizer.encode(text, add_special_tokens=False).ids
        found[name] = result
    return found


def main():
    if not ASSETS.is_dir():
        print("text.json left as it is: ../shared/assets is absent", file=sys.stderr)
        return
    tokenizers = {path: Tokenizer.from_file(str(ASSETS / path)) for path in TOKENIZERS if (ASSETS / path).exists()}
    templates = sorted((ASSETS / "tokenizers/chat-templates").glob("*.jinja"))
    write("text.json", {
        "versions": versions("tokenizers", "transformers", "jinja2"),
        "texts": TEXTS, "conversations": {n: {"messages": m, "addGenerationPrompt": p} for n, (m, p) in CONVERSATIONS.items()},
        "templateVariables": {"bos_token": "<s>", "eos_token": "</s>", "date_string": "01 Jan 2026"},
        "tokenizers": {path: {"ids": [t.encode(x).ids for x in TEXTS],
                              "idsWithoutSpecial": [t.encode(x, add_special_tokens=False).ids for x in TEXTS],
                              "decoded": [t.decode(t.encode(x, add_special_tokens=False).ids, skip_special_tokens=False) for x in TEXTS]}
                       for path, t in tokenizers.items()},
        "chat": {path: chat(path, tokenizers[of]) for path, of in CONFIGS.items()},
        "templates": {f"tokenizers/chat-templates/{p.name}": {
            n: rendered(p.read_text(), n, bos_token="<s>", eos_token="</s>")[1] for n in CONVERSATIONS} for p in templates},
    })


if __name__ == "__main__":
    main()
