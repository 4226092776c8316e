// How few tokens a text can have, from its bytes alone: a text far over a model's context is refused before the minutes
// that its tokens would take. A bound, never an estimate: 0 where a tokenizer may pass over text, as those do that drop
// spaces or put one <unk> for a whole stretch.

type Json = Readonly<Record<string, unknown>>;

/** Unicode's normal forms and lower case shorten a text to a quarter of its bytes at most (a mathematical letter of 4). */
const mostShrinking = 4;

/** From a parsed tokenizer.json, with all added tokens in it: a lower bound of a text's tokens. */
export function tokenBound(tokenizer: Json): (text: string) => number {
  const shrinking = shrinkingOf(tokenizer.normalizer);
  const pre = kindsOf(tokenizer.pre_tokenizer, "pretokenizers");
  const longest = longestToken(tokenizer, pre.has("ByteLevel"));
  const keeps = [...pre].every((kind) => keepingPreTokenizers.has(kind)) && !removes(tokenizer.pre_tokenizer);
  if (shrinking === undefined || !keeps || longest === undefined) return () => 0;
  const added = (Array.isArray(tokenizer.added_tokens) ? tokenizer.added_tokens : []) as Json[];
  // Such a token takes the spaces beside it, however many.
  const takesSpaces = added.some((token) => token?.lstrip === true || token?.rstrip === true);
  return (text) => {
    const counted = takesSpaces ? text.replace(/\s+/g, "") : text;
    return Math.ceil(bytesOf(counted) / (shrinking * longest));
  };
}

const keepingPreTokenizers = new Set<unknown>(["ByteLevel", "Metaspace", "Split", "Digits", "Punctuation"]);

/** By how much a normaliser may shorten a text; undefined without a bound. */
function shrinkingOf(normalizer: unknown): number | undefined {
  let shrinking = 1;
  for (const each of stepsOf(normalizer, "normalizers")) {
    switch (each.type) {
      case "Prepend":
        break;
      case "NFC":
      case "NFD":
      case "NFKC":
      case "NFKD":
      case "Lowercase":
        shrinking = mostShrinking;
        break;
      case "Replace": {
        const pattern = (each.pattern as Json | undefined)?.String;
        // What a pattern takes may be longer than what it leaves; of equal or growing texts only plain ones are sure.
        if (typeof pattern !== "string" || typeof each.content !== "string") return undefined;
        if (each.content.length < pattern.length) return undefined;
        break;
      }
      default:
        return undefined;
    }
  }
  return shrinking;
}

/** Bytes of the longest token; undefined where a token may stand for a stretch of any length. */
function longestToken(tokenizer: Json, byteLevel: boolean): number | undefined {
  const model = (tokenizer.model ?? {}) as Json;
  const { vocab } = model;
  if (typeof vocab !== "object" || vocab === null) return undefined;
  const listed = Array.isArray(vocab);
  // Every byte has a token, so that none is ever passed over or gathered into <unk>.
  const whole = (byteLevel && !listed && model.fuse_unk !== true) || model.byte_fallback === true;
  if (!whole) return undefined;
  let longest = 1;
  const tokens: readonly unknown[] = listed ? vocab.map((entry) => entry?.[0]) : Object.keys(vocab);
  for (const token of tokens) {
    if (typeof token !== "string") return undefined;
    // A byte-level token has a character for each byte; of others a character has three bytes at most in UTF-8.
    const bytes = byteLevel ? token.length : token.length * 3;
    if (bytes > longest) longest = bytes;
  }
  for (const token of (Array.isArray(tokenizer.added_tokens) ? tokenizer.added_tokens : []) as Json[]) {
    if (typeof token?.content === "string") longest = Math.max(longest, bytesOf(token.content));
  }
  return longest;
}

function bytesOf(text: string): number {
  return new TextEncoder().encode(text).length;
}

function removes(preTokenizer: unknown): boolean {
  return stepsOf(preTokenizer, "pretokenizers").some((each) => each.behavior === "Removed");
}

function kindsOf(part: unknown, key: string): Set<unknown> {
  return new Set(stepsOf(part, key).map((each) => each.type));
}

/** The steps of a normaliser or pre-tokenizer, sequences within sequences laid flat. */
function stepsOf(part: unknown, key: string, depth = 0): Json[] {
  if (typeof part !== "object" || part === null) return [];
  const { type, [key]: inside } = part as Json;
  if (type !== "Sequence") return [part as Json];
  if (!Array.isArray(inside) || depth > 8) return [{ type: "unknown" }];
  return inside.flatMap((each) => stepsOf(each, key, depth + 1));
}
