// The form that starts a run: the options of `lowrank train` as their definition has them, and what a page sent back held
// to the same rules. Left out is what a page may not decide: where runs lie, programs to be run (rewards), processes that
// a launcher starts. Files that it names lie in a few places alone (readable-places.ts). Not here: starting
// (run-actions.ts).

import { z } from "zod";
import type { Field } from "../config/define.ts";
import { flagName, resolveInput } from "../config/resolve.ts";
import { type TrainOptions, trainDefinition } from "../config/train-options.ts";
import { sourcesOf } from "../data/data-source.ts";
import { RequestError } from "../serve/request-error.ts";
import { UserError } from "../util/errors.ts";
import type { FormField, FormOptions } from "./api.ts";
import type { ReadablePlaces } from "./readable-places.ts";

const leftOutKeys: ReadonlySet<string> = new Set([
  ...["out", "resume", "json", "ui", "uiPort"],
  // Addresses that keys of the environment would be sent to.
  ...["trackioUrl", "mlflowUri"],
]);
const leftOutGroups: ReadonlySet<string> = new Set(["Several machines", "Rewards (--objective grpo)"]);

let form: FormOptions | undefined;

/** The form of `lowrank train`. */
export function formOptions(): FormOptions {
  form ??= {
    command: "train",
    groups: Object.entries(trainDefinition.groups)
      .filter(([title]) => !leftOutGroups.has(title))
      .map(([title, fields]) => ({
        title,
        fields: Object.entries<Field<unknown>>(fields)
          .filter(([key]) => !leftOutKeys.has(key))
          .map(([key, field]) => formField(key, field)),
      }))
      .filter(({ fields }) => fields.length > 0),
    alternatives: trainDefinition.alternatives,
  };
  return form;
}

function formField(key: string, field: Field<unknown>): FormField {
  const { kind, description, expected, placeholder, required, defaultText, defaultOn, choices } = field;
  return {
    ...{ key, flag: flagName(key), kind, description, expected, placeholder, required, defaultOn },
    ...(defaultText !== undefined && { defaultText }),
    ...(choices && { choices }),
    ...(kind === "number" && rangeOf(field)),
  };
}

function rangeOf({ schema }: Field<unknown>): Pick<FormField, "min" | "max" | "whole"> {
  const found = z.toJSONSchema(schema, { io: "input" }) as Record<string, unknown>;
  const bound = (key: string) => (typeof found[key] === "number" ? found[key] : undefined);
  const [min, max] = [
    bound("minimum") ?? bound("exclusiveMinimum"),
    bound("maximum") ?? bound("exclusiveMaximum"),
  ];
  const isBound = (value: number | undefined) =>
    value !== undefined && Math.abs(value) < Number.MAX_SAFE_INTEGER;
  return {
    ...(isBound(min) && { min: min! }),
    ...(isBound(max) && { max: max! }),
    ...(found.type === "integer" && { whole: true }),
  };
}

/** Values that a page may send, with numbers as numbers and without what was left empty. RequestError otherwise. */
export function formValues(given: unknown): Record<string, unknown> {
  if (typeof given !== "object" || given === null || Array.isArray(given))
    throw new RequestError("values: expected an object of options by their keys", "values");
  const allowed = new Map(
    formOptions()
      .groups.flatMap(({ fields }) => fields)
      .map((field) => [field.key, field]),
  );
  const values: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(given)) {
    const field = allowed.get(key);
    if (!field)
      throw new RequestError(
        `"${key.slice(0, 60)}" is no option that a page may set; use the command line`,
        key,
      );
    if (value === undefined || value === null || value === "") continue;
    const isNumber = field.kind === "number" && typeof value === "string" && Number.isFinite(Number(value));
    values[key] = isNumber ? Number(value) : value;
  }
  return values;
}

/** The options that these values come to. RequestError, naming the option, where they do not do. */
export async function formRun(
  values: Readonly<Record<string, unknown>>,
  out: string,
  places: ReadablePlaces,
): Promise<TrainOptions> {
  const options = atField(() => resolveInput(trainDefinition, { ...values, out }, caller));
  const named: [string, string | undefined][] = [
    ["model", options.model],
    ["initAdapter", options.initAdapter],
    ["addTokens", options.addTokens],
    ["chatTemplate", options.chatTemplate],
  ];
  for (const key of ["data", "evalData", "forget"] as const) {
    for (const { path, chatTemplate } of options[key] === undefined ? [] : sourcesOf(options[key])) {
      named.push([key, chatTemplate]);
      await places.requireData(path, key);
    }
  }
  for (const [key, path] of named) if (path !== undefined) await places.require(path, key);
  return options;
}

const caller = "form";

/** What is wrong with a value, as a refusal that names the option. */
export function atField<T>(resolve: () => T): T {
  try {
    return resolve();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const message = error.message.replace(/^form: /, "");
    const first = /^(?:unknown option )?"?(\w+)\b/.exec(message)?.[1];
    const named = first !== undefined && Object.hasOwn(trainDefinition.fields, first);
    throw new RequestError(message, named ? first : null);
  }
}
