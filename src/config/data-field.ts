// The field of options that name data: one place or several, each with options of its own. What may be written there is
// data/data-source.ts's; how fields work, define.ts's.

import { z } from "zod";
import { type DataChoice, type DataSource, readDataChoice } from "../data/data-source.ts";
import { type Field, field, type Given, type More, type Present } from "./define.ts";

/** Rows of data from one place or several, each with options of its own (data/data-source.ts). */
export function dataSources<const M extends More<DataChoice>>(
  key: string,
  description: string,
  more?: M,
): Field<Present<DataChoice, M>, Given<string | DataSource | readonly (string | DataSource)[], M>> {
  const one = z.union([z.string().min(1), z.looseObject({ path: z.string().min(1) })]);
  const schema = z.union([one, z.array(one).min(1)]).transform((value) => readDataChoice(value, `--${key}`));
  const expected = "a path, { path, weight, limit }, or a list of these";
  return {
    ...field("list", expected, schema, description, { placeholder: "F", ...more }),
    names: "data",
  } as never;
}
