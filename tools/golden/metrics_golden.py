"""Goldens of the text metrics: metrics/texts.json, from sacrebleu (BLEU, chrF2) and rouge_score (no stemming).

The texts are made here from short word lists and a seeded generator: punctuation, numbers, entities, several scripts,
odd whitespace, empty texts, one to three references. Row k: prediction, references, sentence BLEU with and without
effective order, chrF2, and precision/recall/F1 of ROUGE-1, 2, L. `corpora` holds scores of ranges of rows.
"""
import json
import logging
import pathlib
import random

from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF
from record import number, numbers, versions

OUT = pathlib.Path(__file__).resolve().parents[2] / "test/golden/metrics/texts.json"
ROWS = 260

PLAIN = "the a one river boat engine slow quick red green walks stops under over every model learns writes it they".split()
NUMBERS = ["3.14", "1,000", "2-3", "v2.0", "10%", "$5.00", "1.", ".5", "7-", "1990s", "12:30", "a1b2"]
MARKED = ["don't", "well-known", "(yes)", "[no]", "end.", "stop!", "why?", "a,b", "x_y", "e.g.,", "\"quoted\"", "&amp;",
          "&lt;tag&gt;", "&quot;", "<skipped>", "semi;colon", "back\\slash", "tilde~", "at@home", "#1", "a/b", "--", "...",
          "{k:v}", "caret^", "`code`", "*", "+=", "|"]
SCRIPTS = ["naïve", "Zürich", "ÉCOLE", "straße", "Ωμέγα", "σίγμας", "Привет,", "мир.", "日本語", "。中文、", "한국어", "עברית",
           "العربية", "e\u0301te\u0301", "😀", "👩‍👧", "𝒳", "İstanbul", "\u212aelvin", "½", "٣", "ﬁn", "“curly”", "—", "…"]
SPACES = [" ", " ", " ", " ", " ", "  ", "\t", "\n", "-\n", "\u00a0", "\u2003", "\u3000", "\x1c", "\x85", "\ufeff", "\u200b"]


def word(rng, level):
    pool = rng.choices([PLAIN, NUMBERS, MARKED, SCRIPTS], [10, level, level, level])[0]
    chosen = rng.choice(pool)
    return chosen.upper() if rng.random() < 0.05 else chosen


def text(rng, level, length):
    parts = []
    for i in range(length):
        if i:
            parts.append(rng.choice(SPACES) if rng.random() < 0.08 * level else " ")
        parts.append(word(rng, level))
    if rng.random() < 0.2:
        parts.append(rng.choice([".", "\n", " ", "!?", "\x85", "\ufeff"]))
    return "".join(parts)


def changed(rng, source, level):
    words = source.split(" ")
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(words)) if words else 0
        action = rng.random()
        if action < 0.4 and words:
            words[at] = word(rng, level)
        elif action < 0.6 and words:
            del words[at]
        elif action < 0.8:
            words.insert(at, word(rng, level))
        elif len(words) > 1:
            other = rng.randrange(len(words))
            words[at], words[other] = words[other], words[at]
    return " ".join(words)


def rows():
    rng = random.Random(20)
    made = [("", [""]), ("", ["the boat"]), ("the boat", [""]), (" ", ["\n"]), ("the", ["the"]), ("the boat", ["the boat"]),
            ("日本語", ["日本語"]), ("...", ["..."]), ("😀😀😀", ["😀😀"]), ("a-\nb", ["ab"]), ("x", ["", "x", "y x"]),
            ("the the the the the the the", ["the boat is on the river", "there is a boat on the river"])]
    while len(made) < ROWS:
        level = rng.choice([0, 1, 1, 3])
        reference = text(rng, level, rng.choice([1, 2, 3, 4, 6, 9, 14, 22]))
        references = [reference] + [changed(rng, reference, level) for _ in range(rng.choice([0, 0, 1, 2]))]
        prediction = changed(rng, reference, level) if rng.random() < 0.8 else text(rng, level, rng.randint(0, 15))
        made.append((prediction, references))
    return made


def main():
    logging.disable(logging.WARNING)
    plain, effective, chrf = BLEU(), BLEU(effective_order=True), CHRF()
    names = ("rouge1", "rouge2", "rougeL")
    rouge = rouge_scorer.RougeScorer(list(names), use_stemmer=False)
    made = rows()
    lines = []
    for prediction, references in made:
        best = rouge.score_multi(references, prediction)
        lines.append({
            "prediction": prediction, "references": references,
            "bleu": numbers([plain.sentence_score(prediction, references).score,
                             effective.sentence_score(prediction, references).score], 12),
            "chrf": number(chrf.sentence_score(prediction, references).score, 12),
            **{name: numbers([best[name].precision, best[name].recall, best[name].fmeasure], 12) for name in names},
        })
    corpora = []
    for start, end in [(0, ROWS), (0, 12), (0, 4), (12, 40), (40, 41), (41, 100), (100, 200), (200, ROWS), (4, 7)]:
        part = made[start:end]
        streams = [[r[i] if i < len(r) else None for _, r in part] for i in range(max(len(r) for _, r in part))]
        predictions = [p for p, _ in part]
        score = plain.corpus_score(predictions, streams)
        corpora.append({"start": start, "end": end, "bleu": number(score.score, 12),
                        "precisions": numbers(score.precisions, 12), "brevityPenalty": number(score.bp, 12),
                        "chrf": number(chrf.corpus_score(predictions, streams).score, 12)})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps(versions("sacrebleu", "rouge_score"))
    listed = [",\n".join(json.dumps(row) for row in part) for part in (lines, corpora)]
    OUT.write_text(f'{{"versions": {head},\n"rows": [\n{listed[0]}\n],\n"corpora": [\n{listed[1]}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
