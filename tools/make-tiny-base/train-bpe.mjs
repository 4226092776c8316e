// Learns a byte-level BPE vocabulary from text and writes it as a Hugging Face tokenizer.json and
// tokenizer_config.json. Small and exact rather than fast: right for a few megabytes of text.
// Method: Sennrich et al. 2016 on bytes; ties go to the pair that sorts first, so that a run repeats.
// Usage: node tools/make-tiny-base/train-bpe.mjs TEXT.jsonl OUT_DIR [VOCAB_SIZE]
// Not a tokenizer for use: training and inference read the files through src/text/tokenizer.ts.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

export const END = "<|endoftext|>";
/** Ids 0, 1, 2, ... in this order, before the 256 bytes. */
export const SPECIAL_TOKENS = [END, "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|reserved0|>"];

// A word with its leading space; one digit; a run of marks with its leading space; line breaks; other
// space. White space is spelt out because regular expression engines disagree on \s beyond ASCII.
const SPLIT = " ?\\p{L}+|\\p{N}| ?[^ \\t\\r\\n\\p{L}\\p{N}]+|\\n+|[ \\t\\r]+";

// Each turn closes with the end token, so that generation stops where a turn ends.
const CHAT_TEMPLATE =
  "{{ bos_token }}{% for message in messages %}" +
  "{{ '<|' + message['role'] + '|>\\n' }}{{ message['content'] | trim }}{{ eos_token }}" +
  "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}";

/** The 256 printable characters that stand for bytes in byte-level vocabularies, by byte. */
export function byteCharacters() {
  const printable = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

/** Learns merges until the vocabulary holds `vocabSize` tokens or no pair occurs twice. */
export function trainBpe(texts, vocabSize) {
  const alphabet = byteCharacters();
  const words = countWords(texts, alphabet);
  const pairs = new PairTable();
  words.forEach((word, index) => {
    for (let i = 1; i < word.symbols.length; i++)
      pairs.add(word.symbols[i - 1], word.symbols[i], word.count, index);
  });
  const tokens = [...SPECIAL_TOKENS, ...[...alphabet].sort()];
  const merges = [];
  while (tokens.length < vocabSize) {
    const best = pairs.best();
    if (best === undefined || best.count < 2) break;
    merges.push([best.left, best.right]);
    tokens.push(best.left + best.right);
    for (const index of [...best.words]) applyMerge(words[index], index, best, pairs);
  }
  return { vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges };
}

/** Distinct words with their byte characters and how often they occur. */
function countWords(texts, alphabet) {
  const split = new RegExp(SPLIT, "gu");
  const special = new RegExp(SPECIAL_TOKENS.map((token) => token.replace(/[|]/g, "\\|")).join("|"), "g");
  const counts = new Map();
  for (const text of texts) {
    for (const piece of text.split(special)) {
      for (const word of piece.match(split) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  const encoder = new TextEncoder();
  return [...counts].map(([word, count]) => ({
    symbols: Array.from(encoder.encode(word), (byte) => alphabet[byte]),
    count,
  }));
}

/** Joins every `left right` of one word and keeps the pair counts true. */
function applyMerge(word, index, { left, right }, pairs) {
  const { symbols, count } = word;
  for (let i = 1; i < symbols.length; i++) pairs.add(symbols[i - 1], symbols[i], -count, index);
  const merged = [];
  for (let i = 0; i < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) {
      merged.push(left + right);
      i++;
    } else merged.push(symbols[i]);
  }
  word.symbols = merged;
  for (let i = 1; i < merged.length; i++) pairs.add(merged[i - 1], merged[i], count, index);
}

/** Counts of neighbouring symbols, and in which words each pair occurs. */
class PairTable {
  entries = new Map();

  add(left, right, count, wordIndex) {
    const key = `${left} ${right}`;
    let entry = this.entries.get(key);
    if (entry === undefined)
      this.entries.set(key, (entry = { key, left, right, count: 0, words: new Set() }));
    entry.count += count;
    entry.words.add(wordIndex);
    if (entry.count === 0) this.entries.delete(key);
  }

  best() {
    let best;
    for (const entry of this.entries.values()) {
      if (
        best === undefined ||
        entry.count > best.count ||
        (entry.count === best.count && entry.key < best.key)
      ) {
        best = entry;
      }
    }
    return best;
  }
}

/** The contents of tokenizer.json: split, bytes, merges, and one END before the text. */
export function tokenizerJson({ vocab, merges }) {
  const added = SPECIAL_TOKENS.map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  const bytes = { add_prefix_space: false, trim_offsets: true, use_regex: false };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: SPLIT }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", ...bytes },
      ],
    },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: END, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: END, type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { [END]: { id: END, ids: [vocab[END]], tokens: [END] } },
    },
    decoder: { type: "ByteLevel", ...bytes },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}

/** The contents of tokenizer_config.json. */
export function tokenizerConfig(modelMaxLength) {
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: END,
    eos_token: END,
    pad_token: "<|pad|>",
    additional_special_tokens: SPECIAL_TOKENS.slice(2),
    add_bos_token: true,
    add_eos_token: false,
    clean_up_tokenization_spaces: false,
    model_max_length: modelMaxLength,
    chat_template: CHAT_TEMPLATE,
  };
}

/** Learns a tokenizer from texts and writes both files into `outDir`. */
export function writeTokenizer(texts, outDir, vocabSize, modelMaxLength) {
  const learned = trainBpe(texts, vocabSize);
  mkdirSync(outDir, { recursive: true });
  writeFileSync(join(outDir, "tokenizer.json"), `${JSON.stringify(tokenizerJson(learned), null, 1)}\n`);
  writeFileSync(
    join(outDir, "tokenizer_config.json"),
    `${JSON.stringify(tokenizerConfig(modelMaxLength), null, 2)}\n`,
  );
  return learned;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [path, outDir, size = "2048"] = process.argv.slice(2);
  if (path === undefined || outDir === undefined) {
    console.error("Usage: node tools/make-tiny-base/train-bpe.mjs TEXT.jsonl OUT_DIR [VOCAB_SIZE]");
    process.exit(2);
  }
  const texts = readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line).text);
  const { merges, vocab } = writeTokenizer(texts, outDir, Number(size), 512);
  console.log(`${Object.keys(vocab).length} tokens, ${merges.length} merges -> ${outDir}`);
}
