// What a form holds while it is filled in: texts as they were written, by option; into the address and back, and into
// the values that the server takes. Not here: the form (views/start.tsx), or what the server thinks of it.

import type { FormField } from "../api.ts";

/** Only what was given; what is left out takes its default. */
export type Draft = Readonly<Record<string, string | boolean>>;

export function writeDraft(draft: Draft): string | undefined {
  return Object.keys(draft).length === 0 ? undefined : JSON.stringify(draft);
}

/** An address may say anything: what is no text and no switch is left out. */
export function readDraft(text: string | undefined): Draft {
  if (text === undefined) return {};
  try {
    const found: unknown = JSON.parse(text);
    if (typeof found !== "object" || found === null || Array.isArray(found)) return {};
    return Object.fromEntries(
      Object.entries(found).filter(
        (entry): entry is [string, string | boolean] =>
          typeof entry[1] === "string" || typeof entry[1] === "boolean",
      ),
    );
  } catch {
    return {};
  }
}

/** A run's options as a draft: what a form can hold of them. */
export function draftOf(recipe: Readonly<Record<string, unknown>>): Draft {
  const draft: Record<string, string | boolean> = {};
  for (const [key, value] of Object.entries(recipe)) {
    const words = Array.isArray(value) ? value.map(wordOf) : [wordOf(value)];
    if (typeof value === "boolean") draft[key] = value;
    else if (words.length > 0 && words.every((word) => word !== undefined)) draft[key] = words.join(",");
  }
  return draft;
}

/** Sources of data may be objects; one without options of its own is its path. */
function wordOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (typeof value === "number") return String(value);
  if (typeof value !== "object" || value === null) return undefined;
  const given = Object.entries(value).filter(([, one]) => one !== undefined && one !== null);
  return given.length === 1 && given[0]![0] === "path" ? wordOf(given[0]![1]) : undefined;
}

/** Without what the form does not ask for, and what is the default anyway. */
export function pruned(fields: readonly FormField[], draft: Draft): Draft {
  const kept = fields.flatMap(({ key, kind, defaultText, defaultOn }) => {
    const value = draft[key];
    const usual = kind === "switch" ? value === defaultOn : value === defaultText;
    const fits = kind === "switch" ? typeof value === "boolean" : typeof value === "string";
    return value === undefined || usual || !fits ? [] : [[key, value] as const];
  });
  return Object.fromEntries(kept);
}

export function valuesOf(fields: readonly FormField[], draft: Draft): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const { key, kind } of fields) {
    const value = draft[key];
    if (value === undefined) continue;
    values[key] = kind === "number" ? Number(value) : typeof value === "string" ? value.trim() : value;
  }
  return values;
}

/** What is wrong with a value, as far as the page can tell; the server decides. */
export function checkValue(field: FormField, value: string | boolean): string | undefined {
  if (typeof value === "boolean") return undefined;
  if (value.trim() === "") return `Expected ${field.expected}.`;
  if (field.kind !== "number") return undefined;
  const number = Number(value);
  const outside =
    !Number.isFinite(number) ||
    (field.whole && !Number.isInteger(number)) ||
    (field.min !== undefined && number < field.min) ||
    (field.max !== undefined && number > field.max);
  return outside ? `Expected ${field.expected}.` : undefined;
}
