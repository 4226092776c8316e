// The table of what the analysing process can do. Each task takes and returns plain data.

import { viewLayers } from "./view-layers.ts";
import { viewMemory } from "./view-memory.ts";
import { viewPeak } from "./view-peak.ts";
import { viewPlan } from "./view-plan.ts";
import { viewRows } from "./view-rows.ts";
import { viewSamples } from "./view-samples.ts";

export const analystTasks = {
  rows: viewRows,
  samples: viewSamples,
  layers: viewLayers,
  memory: viewMemory,
  plan: viewPlan,
  peak: viewPeak,
};

export type AnalystTasks = typeof analystTasks;
