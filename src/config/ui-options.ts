// The options of `lowrank ui`. What they do is ui/.

import { defineOptions, list, type OptionsOf, text, toggle, whole } from "./define.ts";

export const uiDefinition = defineOptions({
  command: "ui",
  summary:
    "Show the runs of a folder in a local page, live and afterwards; start, pause, resume and end them.",
  groups: {
    Page: {
      folder: text("folder whose runs are shown; it may stand alone", {
        default: "runs",
        placeholder: "DIR",
      }),
      port: whole("port to listen on; 0 takes any free one", { max: 65535, default: 7860 }),
      host: text("address to listen on; any but loopback needs --api-key", {
        default: "127.0.0.1",
        placeholder: "ADDRESS",
      }),
      apiKey: text("key that the page must have; also read from LOWRANK_API_KEY", { placeholder: "K" }),
      read: list("another folder that the page may name models and data in; may be repeated", {
        placeholder: "DIR",
      }),
    },
    Output: {
      json: toggle("print one JSON document on stdout and nothing else there", false),
    },
  },
  examples: ["lowrank ui", "lowrank ui runs --port 8080 --read /data"],
});

export type UiOptions = OptionsOf<typeof uiDefinition>;
