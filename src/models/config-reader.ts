// Reads fields of a config.json with clear refusals. What the fields mean is the callers' affair.

import { UserError } from "../util/errors.ts";

export type Json = Readonly<Record<string, unknown>>;

/** config.json with keys under the names that we read, where it has another name for them. */
export function withAliases(json: Json, aliases: Readonly<Record<string, readonly string[]>>): Json {
  const found = Object.entries(aliases).flatMap(([key, others]) => {
    const other = others.find((name) => json[name] !== undefined && json[name] !== null);
    return (json[key] ?? undefined) === undefined && other !== undefined ? [[key, json[other]]] : [];
  });
  return { ...json, ...Object.fromEntries(found) };
}

/** Reads fields of a config.json with clear refusals. */
export class ConfigReader {
  constructor(readonly json: Json) {}

  integer(key: string, fallback?: number, most = 2 ** 24): number {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > most) {
      throw new UserError(
        `config.json: "${key}" should be a whole number from 1 to ${most}, found ${JSON.stringify(value)}`,
      );
    }
    return value;
  }

  number(key: string, fallback?: number): number {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw new UserError(`config.json: "${key}" should be a number, found ${JSON.stringify(value)}`);
    }
    return value;
  }

  positive(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (value <= 0) throw new UserError(`config.json: "${key}" should be above 0, found ${value}`);
    return value;
  }

  /** 0 where the key is null or absent. */
  positiveOrNothing(key: string): number {
    return (this.json[key] ?? undefined) === undefined ? 0 : this.positive(key);
  }

  /** What a name stands for. */
  choice<T>(key: string, fallback: string, known: Readonly<Record<string, T>>): T {
    const name = this.json[key] ?? fallback;
    if (typeof name === "string" && Object.hasOwn(known, name)) return known[name]!;
    throw new UserError(
      `config.json: ${key} ${JSON.stringify(name)} is not supported; supported are ${Object.keys(known).join(", ")}`,
    );
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "boolean") {
      throw new UserError(`config.json: "${key}" should be true or false, found ${JSON.stringify(value)}`);
    }
    return value;
  }
}
