// The options of `lowrank push`. What they do is publish/push-adapter.ts.

import { defineOptions, type OptionsOf, text, toggle } from "./define.ts";
import { deviceFields } from "./fields.ts";

export const pushDefinition = defineOptions({
  command: "push",
  summary:
    "Upload an adapter to the hub, with a model card made from its run.json. HF_TOKEN must allow writing.",
  groups: {
    Push: {
      adapter: text("folder of the adapter", { required: true, placeholder: "DIR" }),
      repo: text("where to: owner/name; made when it is not there", {
        required: true,
        placeholder: "OWNER/NAME",
      }),
      private: toggle("make a new repository private", false),
      message: text("message of the commit", { default: "Upload adapter" }),
      json: deviceFields.json,
    },
  },
  examples: ["lowrank push --adapter runs/first --repo me/first-adapter"],
});

export type PushCommandOptions = OptionsOf<typeof pushDefinition>;
