// Rows that lie elsewhere than when a run was trained on them, for running its steps again (replay.ts).

import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import type { TrainOptions } from "../config/train-options.ts";
import { type DataChoice, type DataSource, sourcesOf } from "../data/data-source.ts";

const rowOptions = ["data", "evalData", "forget"] as const;

/** A run's options with its rows where they lie now; what else is said of each source stays as it was. */
export function movedRows(
  options: Partial<TrainOptions>,
  places: readonly string[] = [],
): Partial<TrainOptions> {
  let found = places.length === 0;
  const placeOf = (path: string) => {
    const place = places
      .map((each) => (basename(each) === basename(path) ? each : join(each, basename(path))))
      .find((each) => existsSync(each));
    found ||= place !== undefined;
    return place ?? path;
  };
  const moved: Partial<Record<(typeof rowOptions)[number], DataChoice>> = {};
  for (const key of rowOptions) {
    const choice: unknown = options[key];
    if (typeof choice === "string") moved[key] = placeOf(choice);
    else if (Array.isArray(choice) && choice.every((source) => typeof source?.path === "string"))
      moved[key] = choice.map((source: DataSource) => ({ ...source, path: placeOf(source.path) }));
  }
  // One place under another name can only be that of the rows that are learnt.
  const [place] = places;
  if (!found && place !== undefined && places.length === 1 && moved.data?.length) {
    const [source, ...others] = sourcesOf(moved.data);
    if (others.length === 0)
      moved.data = typeof moved.data === "string" ? place : [{ ...source!, path: place }];
  }
  return { ...options, ...moved } as Partial<TrainOptions>;
}
