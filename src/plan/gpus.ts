// GPUs, their peaks and prices, from the YAML that comes with lowrank (data/gpus.yaml) or one of the user's. Every
// figure carries its source and date; none lives in code. Who uses them: time-cost.ts and explain.ts.

import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { z } from "zod";
import { openFile } from "../formats/disk.ts";
import { nearestName, UserError } from "../util/errors.ts";

const shipped = new URL("../../data/gpus.yaml", import.meta.url);
const capBytes = 1 << 20;

/** YAML reads 2026-06 as text and 2026-06-01 as text too; a bare year is a number. */
const date = z.union([z.string(), z.number()]).transform(String);

const price = z.strictObject({ perHour: z.number().min(0), asOf: date, source: z.string() });

const gpu = z.strictObject({
  title: z.string(),
  memoryGB: z.number().positive(),
  /** Dense 16-bit peak, 10^12 operations a second. */
  tflops: z.number().positive(),
  source: z.string(),
  price: price.optional(),
});

const article = z.strictObject({
  machine: z.string(),
  gpu: z.string(),
  gpus: z.int().min(1),
  perHour: z.number(),
  hours: z.number(),
  loraRunCost: z.number(),
  fullMemoryGB: z.number(),
  qloraMemoryGB: z.number(),
  qualityKept: z.strictObject({ lora: z.number(), qlora: z.number() }),
});

const table = z.strictObject({
  asOf: date,
  /** Share of the peak that training is taken to reach. */
  utilization: z.number().gt(0).max(1),
  gpus: z.record(z.string(), gpu),
  article: article.optional(),
});

export type Gpu = z.infer<typeof gpu> & { readonly name: string };
export type GpuTable = z.infer<typeof table>;
export type Article = z.infer<typeof article>;

/** The table in `path`, or the one that comes with lowrank. UserError says what is wrong with it. */
export async function readGpuTable(path = fileURLToPath(shipped)): Promise<GpuTable> {
  const source = await openFile(path);
  let text: string;
  try {
    if (source.size > capBytes)
      throw new UserError(`${path}: ${source.size} bytes; a table of GPUs has at most ${capBytes}.`);
    text = new TextDecoder().decode(await source.read(0, source.size));
  } finally {
    await source.close();
  }
  let value: unknown;
  try {
    value = parse(text, { maxAliasCount: 10 });
  } catch (error) {
    throw new UserError(`${path}: not valid YAML: ${(error as Error).message.split("\n")[0]}`);
  }
  const parsed = table.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new UserError(
    `${path}: ${issue!.path.join(".") || "the table"}: ${issue!.message}; expected the keys of data/gpus.yaml: asOf, utilization, gpus: {NAME: {title, memoryGB, tflops, source, price?: {perHour, asOf, source}}}`,
  );
}

/** A GPU by its name in the table; case and punctuation do not matter. */
export function findGpu(gpus: GpuTable, name: string): Gpu {
  const plain = (text: string) => text.toLowerCase().replace(/[^a-z0-9]/g, "");
  const names = Object.keys(gpus.gpus);
  const found =
    names.find((known) => plain(known) === plain(name)) ??
    names.find((known) => plain(known).startsWith(plain(name)));
  if (found === undefined) {
    const near = nearestName(name, names);
    throw new UserError(
      `--gpu ${name}: not in the table; known are ${names.join(", ")}.${near ? ` Did you mean ${near}?` : ""} Others go into a file for --gpus`,
    );
  }
  return { name: found, ...gpus.gpus[found]! };
}
