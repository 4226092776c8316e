// How far two adapters are from each other as PEFT reads them: in what they add to each weight, scale * B A.

import { readAdapter } from "../../src/formats/peft.ts";
import { scaleOf } from "../../src/models/adapter-plan.ts";

/** The most by which an element of any weight's update differs. Throws where they are of other layers or shapes. */
export async function adapterDifference(folder: string, other: string): Promise<number> {
  const [one, two] = [await updatesOf(folder), await updatesOf(other)];
  if ([...one.keys()].sort().join() !== [...two.keys()].sort().join())
    throw new Error("the adapters are of other layers");
  let most = 0;
  for (const [name, update] of one) {
    const against = two.get(name)!;
    if (update.length !== against.length) throw new Error(`${name}: other shapes`);
    for (let i = 0; i < update.length; i++) {
      const difference = Math.abs(update[i]! - against[i]!);
      if (!(difference <= most)) most = difference;
    }
  }
  return most;
}

async function updatesOf(folder: string): Promise<Map<string, Float64Array>> {
  const adapter = await readAdapter(folder);
  const updates = new Map<string, Float64Array>();
  for (const [name, { a, b }] of adapter.modules) {
    const [rank = 0, width = 0] = a.shape;
    const [height = 0] = b.shape;
    const update = new Float64Array(height * width);
    const scale = scaleOf(adapter, name);
    for (let i = 0; i < height; i++)
      for (let r = 0; r < rank; r++) {
        const factor = scale * b.values[i * rank + r]!;
        for (let j = 0; j < width; j++) update[i * width + j]! += factor * a.values[r * width + j]!;
      }
    updates.set(name, update);
  }
  if (updates.size === 0) throw new Error(`${folder}: no adapted layer`);
  return updates;
}
