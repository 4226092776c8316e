// Reads fields of a config.json with clear refusals. What the fields mean is the callers' affair.

import { UserError } from "../util/errors.ts";

export type Json = Readonly<Record<string, unknown>>;

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

  flag(key: string, fallback: boolean): boolean {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "boolean") {
      throw new UserError(`config.json: "${key}" should be true or false, found ${JSON.stringify(value)}`);
    }
    return value;
  }
}
