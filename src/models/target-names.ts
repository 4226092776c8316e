// What users call layers, in PEFT's terms: --targets and --exclude. Matching is formats/adapter-targets.ts's.

const shortNames: Readonly<Record<string, string>> = {
  q: "q_proj",
  k: "k_proj",
  v: "v_proj",
  o: "o_proj",
  gate: "gate_proj",
  up: "up_proj",
  down: "down_proj",
};

/** What every block's linear layers are called. */
export const linearNames: readonly string[] = Object.values(shortNames);

/** --targets in PEFT's terms: all-linear, attention, a comma list of names (short or full), or /regex/. */
export function parseTargets(text: string): string | string[] {
  if (text === "all-linear") return text;
  if (text === "attention") return ["q_proj", "k_proj", "v_proj", "o_proj"];
  if (text.length > 2 && text.startsWith("/") && text.endsWith("/")) return text.slice(1, -1);
  return text
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "")
    .map((name) => (Object.hasOwn(shortNames, name) ? shortNames[name]! : name));
}

/** --exclude in PEFT's terms: names (short or full), or /regex/. */
export function parseExcluded(text: string): string | string[] {
  const excluded = parseTargets(text);
  return excluded === "all-linear" ? [excluded] : excluded;
}
