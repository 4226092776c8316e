// What a request to the page's server may say beside its path: numbers and ids of its query, values of its body, each within
// bounds. Not here: the routes (ui-server.ts).

import type { Context } from "hono";
import { RequestError } from "../serve/request-error.ts";
import { isId } from "./run-places.ts";

const mostIds = 100;

/** A whole number of the query. */
export function numberOf(c: Context, name: string, min: number, max: number, otherwise: number): number {
  const text = c.req.query(name);
  if (text === undefined || text === "") return otherwise;
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw new RequestError(`${name}: expected a whole number from ${min} to ${max}`, name);
}

/** ?runs=a,b: ids as they stand in a path, each percent-encoded once more where it holds a comma. */
export function queryIds(c: Context): ReadonlySet<string> {
  const given = (c.req.query("runs") ?? "").split(",").filter((part) => part !== "");
  if (given.length > mostIds) throw new RequestError(`runs: expected at most ${mostIds} ids`, "runs");
  return new Set(
    given.map((part) => {
      const id = decoded(part);
      if (!isId(id)) throw new RequestError("runs: expected ids of runs, with commas between them", "runs");
      return id;
    }),
  );
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

export function wholeOf(
  body: Readonly<Record<string, unknown>>,
  key: string,
  min: number,
  max: number,
  otherwise: number,
): number {
  const value = body[key];
  if (value === undefined || value === null) return otherwise;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max) return value;
  throw new RequestError(`${key}: expected a whole number from ${min} to ${max}`, key);
}

/** Undefined where there is none. */
export function textsOf(
  body: Readonly<Record<string, unknown>>,
  key: string,
  most: number,
  longest: number,
): readonly string[] | undefined {
  const value = body[key];
  if (value === undefined || value === null) return undefined;
  const sound =
    Array.isArray(value) &&
    value.length >= 1 &&
    value.length <= most &&
    value.every((text) => typeof text === "string" && text !== "" && text.length <= longest);
  if (sound) return value as string[];
  throw new RequestError(`${key}: expected from 1 to ${most} texts of at most ${longest} characters`, key);
}
