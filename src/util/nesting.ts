// How deeply values are nested: JSON may nest a million lists, which whoever walks them by recursion does not survive.

/** Deeper than any file of a model or adapter, by far. */
export const NESTING_CAP = 200;

/** Whether lists and objects stand in each other more than `cap` times. Does not recurse. */
export function isNestedBeyond(value: unknown, cap = NESTING_CAP): boolean {
  let level: unknown[] = [value];
  for (let depth = 0; level.length > 0; depth++) {
    const next: unknown[] = [];
    for (const item of level) {
      if (typeof item !== "object" || item === null) continue;
      if (depth >= cap) return true;
      for (const inner of Object.values(item))
        if (typeof inner === "object" && inner !== null) next.push(inner);
    }
    level = next;
  }
  return false;
}
