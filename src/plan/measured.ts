// What this project measured itself, from docs/measured.json where it is there: the planner names these beside the
// article's claims and never computes with them.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { openFile } from "../formats/disk.ts";
import { readJsonObject } from "../formats/json.ts";
import { UserError } from "../util/errors.ts";

const file = fileURLToPath(new URL("../../docs/measured.json", import.meta.url));

const entry = z.object({
  /** What was done, in words: model, data, steps. */
  what: z.string(),
  asOf: z.string(),
  device: z.string(),
  /** Quality kept in % of full fine-tuning, by method as it was named in the comparison. */
  qualityKept: z.record(z.string(), z.number()).optional(),
  metric: z.string().optional(),
});

const measuredSchema = z.object({ comparisons: z.array(entry) });
export type Measured = z.infer<typeof measuredSchema>;

/** Undefined where this installation has no such file. */
export async function readMeasured(path = file): Promise<Measured | undefined> {
  if (!existsSync(path)) return undefined;
  const source = await openFile(path);
  try {
    const parsed = measuredSchema.safeParse(await readJsonObject(source, 1 << 20));
    if (parsed.success) return parsed.data;
    const [issue] = parsed.error.issues;
    throw new UserError(`${path}: ${issue!.path.join(".")}: ${issue!.message}`);
  } finally {
    await source.close();
  }
}
