// The options of `lowrank verify`. What it does is publish/verify-chain.ts and train/replay.ts.

import { UsageError } from "../util/errors.ts";
import { defineOptions, list, modelName, type OptionsOf, real, text, toggle, whole } from "./define.ts";

/** Which steps of a run are made again. */
export type ReplayChoice =
  | { readonly kind: "none" | "all" }
  | { readonly kind: "last"; readonly count: number }
  | { readonly kind: "range"; readonly first: number; readonly last: number };

export const verifyDefinition = defineOptions({
  command: "verify",
  summary:
    "Check a run, an adapter, a merged or quantised folder or a GGUF file: every hash on the way back to data and base, and of a run steps made again.",
  groups: {
    "What to check": {
      path: text("a run's folder, or what was made of it; it may stand alone, before the flags", {
        required: true,
        placeholder: "PATH",
      }),
      steps: text(
        "steps of a run to make again from its checkpoints: N for the last N, A..B, all or none; stretches between checkpoints are made whole",
        { placeholder: "N|A..B|all|none", defaultText: "the stretch before the last checkpoint" },
      ),
      tolerance: real(
        "what a step's loss may differ by on a machine of another kind, relative to the loss or to 1",
        { min: 0, defaultText: "1e-4 in fp32, 0.02 in bf16 and fp16" },
      ),
      model: modelName("where the model that the run was trained on lies now"),
      data: list("where its rows lie now; may be repeated", { placeholder: "F" }),
    },
    "Device and output": {
      threads: whole("threads of the CPU; they change no bit", {
        min: 1,
        max: 1024,
        defaultText: "as the run had",
      }),
      json: toggle("print one JSON document on stdout and nothing else there", false),
    },
  },
  examples: [
    "lowrank verify runs/first",
    "lowrank verify first.gguf --json",
    "lowrank verify runs/first --steps all",
  ],
  finish: (values) => ({ ...values, steps: choiceOf(values.steps) }),
});

export type VerifyOptions = OptionsOf<typeof verifyDefinition>;

function choiceOf(given: string | undefined): ReplayChoice {
  if (given === undefined) return { kind: "last", count: 1 };
  if (given === "none" || given === "all") return { kind: given };
  const [, first, last] = /^(\d{1,12})\.\.(\d{1,12})$/.exec(given) ?? [];
  if (first !== undefined && last !== undefined && Number(first) >= 1 && Number(first) <= Number(last))
    return { kind: "range", first: Number(first), last: Number(last) };
  if (/^\d{1,12}$/.test(given) && Number(given) >= 1) return { kind: "last", count: Number(given) };
  throw new UsageError(
    `--steps: expected N, A..B with 1 <= A <= B, all or none; got ${JSON.stringify(given)}.`,
  );
}
