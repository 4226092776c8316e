// A short hash of text for cache keys, the same in Node and in browsers, where SHA-256 is asynchronous. It guards
// against accidents, not against malice. Used for tokenizers and chat templates.

/** Two independent 32-bit FNV-1a sums over UTF-16 units, as 16 hex digits; the second also mixes in the place. */
export function contentHash(text: string): string {
  let low = 0x811c9dc5;
  let high = 0xa3b93881;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    low = Math.imul(low ^ unit, 0x01000193);
    high = Math.imul(high ^ (unit + i), 0x01000193);
  }
  const hex = (word: number) => (word >>> 0).toString(16).padStart(8, "0");
  return hex(high) + hex(low);
}
