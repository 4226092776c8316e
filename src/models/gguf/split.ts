// llama.cpp's name for how a byte-level tokenizer first splits text. A split that has no name there would tokenise
// differently in silence. So it is tried on texts: a named split that gives the same tokens on all of ordinary text is
// taken, and what it does differently is said; where none does, the export is refused.
// Names of splits: llama.cpp, src/llama-vocab.cpp.

import { isJsonObject, type JsonObject } from "../../formats/json.ts";
import { Tokenizer } from "../../text/tokenizer.ts";
import { UserError } from "../../util/errors.ts";

/** The regular expressions of the first split, and what llama.cpp calls them. */
const splits: readonly (readonly [pattern: string, name: string])[] = [
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "llama-bpe",
  ],
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "qwen2",
  ],
  [
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "tekken",
  ],
];

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };

/** Every named split as a step of tokenizer.json. */
const candidates: readonly (readonly [name: string, step: JsonObject])[] = [
  ["gpt-2", { ...byteLevel, use_regex: true }],
  ["smollm", inTurn({ type: "Digits", individual_digits: true }, { ...byteLevel, use_regex: true })],
  ...splits.map(
    ([Regex, name]) =>
      [
        name,
        inTurn(
          { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
          { ...byteLevel, use_regex: false },
        ),
      ] as const,
  ),
];

/** Texts that every split must agree on, and kinds of text on which a difference is told. */
const ordinaryTexts = [
  "Once upon a time there was a little girl, and her name was Anna.",
  "He said: \"It was 12:45 on May 3rd, 2019 (or 2020?)\"; that's what they've told me - isn't it?",
  "A first line.\nA second line.\n",
  "Grüße aus Köln, où l'été commença; ¿qué tal? Привет, мир! 你好，世界。 नमस्ते",
  'for (let i = 0; i < 10; i++) { total += x[i] * 3.14; } // {"a": [1, 2], "b": null}',
  "It cost $1,234.56, which is 7% of 1e6 @ 3x.",
  "emoji 😀👍🏽 and symbols ≤ ± → ©",
];
const oddTexts: readonly (readonly [kind: string, text: string])[] = [
  ["several spaces before a word", "two  spaces and   three spaces"],
  ["tabs", "a\tb\t\tc"],
  ["empty lines", "a paragraph.\n\nAnother one.\n\n\nA third one."],
  ["indented lines", "if x:\n    y = 1\n\tz = 2\n"],
  ["spaces at the end of a line", "a line  \nanother "],
  ["Windows' line ends", "a\r\nb\r\n"],
];

/** The name; `warn` hears where the split of that name is not quite the tokenizer's. UserError when none is near. */
export function splitName(tokenizer: Tokenizer, json: JsonObject, warn?: (message: string) => void): string {
  const steps = flattenSteps(json.pre_tokenizer, "pretokenizers");
  const shape = steps.map((step) => step.type).join(" ");
  const last = steps.at(-1);
  if (last?.type === "ByteLevel" && last.add_prefix_space !== true) {
    if (shape === "ByteLevel") return "gpt-2";
    if (shape === "Digits ByteLevel" && steps[0]!.individual_digits === true) return "smollm";
    const pattern = shape === "Split ByteLevel" ? steps[0]!.pattern : undefined;
    const regex = isJsonObject(pattern) ? pattern.Regex : undefined;
    const found = splits.find(([source]) => source === regex);
    if (found) return found[1];
    const near = nearestSplit(tokenizer, json);
    if (near) {
      const differ = near.differ.length === 0 ? "" : `, and others on ${near.differ.join(", ")}`;
      warn?.(
        `${tokenizer.name}: llama.cpp has no name for exactly how this tokenizer first splits text; written as ${near.name}, which gives the same tokens on ordinary text${differ} (--pre-tokenizer chooses another)`,
      );
      return near.name;
    }
  }
  throw new UserError(
    `${tokenizer.name}: llama.cpp has no name known here for how this tokenizer first splits text (${shape || "no pre-tokenizer"}), and no split that it has gives the same tokens. If you know the name it has there, give it with --pre-tokenizer; it decides how every text is tokenised`,
  );
}

/** The named split that gives the same tokens on ordinary text and on most of the odd texts. */
function nearestSplit(
  tokenizer: Tokenizer,
  json: JsonObject,
): { name: string; differ: readonly string[] } | undefined {
  const agreeing = candidates.flatMap(([name, step]) => {
    const other = new Tokenizer({
      name: tokenizer.name,
      tokenizer: { ...json, pre_tokenizer: step },
      tokenizerConfig: { eos_token: tokenizer.tokenOf(tokenizer.eosId) },
    });
    const same = (text: string) => tokenizer.encode(text).join() === other.encode(text).join();
    if (!ordinaryTexts.every(same)) return [];
    return [{ name, differ: oddTexts.filter(([, text]) => !same(text)).map(([kind]) => kind) }];
  });
  return agreeing.sort((a, b) => a.differ.length - b.differ.length)[0];
}

/** What llama.cpp calls splits of the same tokens. */
const otherNames: Readonly<Record<string, string>> = {
  ...{
    llama3: "llama-bpe",
    "llama-v3": "llama-bpe",
    falcon3: "llama-bpe",
    pixtral: "llama-bpe",
    "midm-2.0": "llama-bpe",
  },
  ...{ "deepseek-r1-qwen": "qwen2", kormo: "qwen2", "granite-embed-multi-311m": "gpt-2" },
  ...{ default: "gpt-2", "granite-docling": "gpt-2", "phi-2": "gpt-2", "roberta-bpe": "gpt-2" },
};

/** Splits after which a piece that is a token is one, whatever merges make of it. */
const wholePieces = new Set(["llama-bpe", "tekken"]);

/** The step of tokenizer.json that llama.cpp's name of a split stands for. UserError for a name that is not known here. */
export function splitNamed(
  name: string,
  where: string,
): { readonly step: JsonObject; readonly ignoreMerges: boolean } {
  const usual = otherNames[name] ?? name;
  const found = candidates.find(([candidate]) => candidate === usual);
  if (!found) {
    throw new UserError(
      `${where}: its tokenizer first splits text as "${name}", which is not known here; known are ${candidates.map(([candidate]) => candidate).join(", ")}. Use the model's own folder (tokenizer.json) in place of the file`,
    );
  }
  return { step: found[1], ignoreMerges: wholePieces.has(usual) };
}

function inTurn(...pretokenizers: JsonObject[]): JsonObject {
  return { type: "Sequence", pretokenizers };
}

/** A step, or a Sequence of steps, as a list. */
export function flattenSteps(step: unknown, key: string): JsonObject[] {
  if (!isJsonObject(step)) return [];
  const inner = step[key];
  return step.type === "Sequence" && Array.isArray(inner)
    ? inner.flatMap((each) => flattenSteps(each, key))
    : [step];
}
