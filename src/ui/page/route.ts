// Where the reader is, kept in the address's hash, so that a reload, the back button and a link come to the same view:
// "#/run/first?tab=speed&smooth=0.9". Not here: what is shown there.

import { computed, signal } from "@preact/signals";

export interface Place {
  /** Parts of the path, decoded: ["run", "first"]. */
  readonly path: readonly string[];
  readonly query: Readonly<Record<string, string>>;
}

const hash = signal(window.location.hash);
window.addEventListener("hashchange", readAddress);

/** When the address was changed by other means than these. */
export function readAddress(): void {
  hash.value = window.location.hash;
}

export const place = computed(() => readPlace(hash.value));

export function readPlace(text: string): Place {
  const [path = "", query = ""] = text.replace(/^#\/?/, "").split("?", 2);
  return {
    path: path
      .split("/")
      .filter((part) => part !== "")
      .map(decoded),
    query: Object.fromEntries(new URLSearchParams(query)),
  };
}

/** What a stranger's link holds need not decode. */
export function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function linkTo(
  path: readonly string[],
  query: Readonly<Record<string, string | undefined>> = {},
): string {
  const given = Object.entries(query).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const search = new URLSearchParams(given).toString();
  return `#/${path.map(encodeURIComponent).join("/")}${search === "" ? "" : `?${search}`}`;
}

export function go(path: readonly string[], query?: Readonly<Record<string, string | undefined>>): void {
  window.location.hash = linkTo(path, query);
}

/** Changes the query in place, without a new entry in the history: sliders and switches. */
export function setQuery(change: Readonly<Record<string, string | undefined>>): void {
  const { path, query } = place.value;
  window.history.replaceState(null, "", linkTo(path, { ...query, ...change }));
  hash.value = window.location.hash;
}
