// What users call layers, in PEFT's terms: --targets and --exclude. Matching is formats/adapter-targets.ts's.

const shortNames: Readonly<Record<string, string>> = {
  q: "q_proj",
  k: "k_proj",
  v: "v_proj",
  o: "o_proj",
  qkv: "qkv_proj",
  gate: "gate_proj",
  up: "up_proj",
  down: "down_proj",
  gate_up: "gate_up_proj",
};

/** A mixture's parts, by the ends of their names. */
const mixtureNames: Readonly<Record<string, readonly string[]>> = {
  experts: ["experts.gate_up_proj", "experts.down_proj"],
  router: ["mlp.gate", "mlp.router", "router.proj"],
};

/** Layers of attention, however a model cuts them. */
const attentionNames = ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"];

/** What a layer is called in short, where it has such a name. */
export function shortName(name: string): string {
  return Object.keys(shortNames).find((short) => shortNames[short] === name) ?? name;
}

/** What layers of these names are called: the last parts, and more of them where one alone would be another's. */
export function lastParts(names: readonly string[]): string[] {
  const long = /\.(experts\.\w+|mlp\.gate|mlp\.router|router\.proj)$/;
  return [...new Set(names.map((name) => long.exec(name)?.[1] ?? name.slice(name.lastIndexOf(".") + 1)))];
}

/**
 * --targets in PEFT's terms: all-linear, a comma list of names (short or full) with attention, experts and router among
 * them, or /regex/. `known` are the last parts of the names of the model's layers.
 */
export function parseTargets(text: string, known: readonly string[]): string | string[] {
  if (text === "all-linear") return text;
  if (text.length > 2 && text.startsWith("/") && text.endsWith("/")) return text.slice(1, -1);
  return text
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "")
    .flatMap((name) => {
      if (name === "attention") return attentionNames.filter((own) => known.includes(own));
      if (Object.hasOwn(mixtureNames, name)) {
        const own = mixtureNames[name]!.filter((part) => known.includes(part));
        return own.length > 0 ? own : [name];
      }
      return [Object.hasOwn(shortNames, name) ? shortNames[name]! : name];
    });
}

/** --exclude in PEFT's terms: names (short or full), or /regex/. */
export function parseExcluded(text: string, known: readonly string[]): string | string[] {
  const excluded = parseTargets(text, known);
  return excluded === "all-linear" ? [excluded] : excluded;
}
