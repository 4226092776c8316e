// The options of `lowrank devices`. Not here: what a device is (backend/), how it is printed (cli/devices.ts).

import { defineOptions, type OptionsOf, toggle } from "./define.ts";

export const devicesDefinition = defineOptions({
  command: "devices",
  summary: "List what can compute here, with its features and limits.",
  groups: {
    Output: { json: toggle("print one JSON document on stdout and nothing else there", false) },
  },
  examples: ["lowrank devices", "lowrank devices --json"],
});

export type DevicesOptions = OptionsOf<typeof devicesDefinition>;
