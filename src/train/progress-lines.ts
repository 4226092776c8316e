// What `train --json` prints for editors and scripts: one JSON object a line, the run's events between a first line that
// says which protocol this is and a last one that says how it ended. docs/PROGRESS.md is the protocol in words, and its
// test holds every line to it. Not here: who prints (cli/train.ts), what events are (events.ts).

import type { TrainEvent, TrainSummary } from "./events.ts";

/** Grows where a line loses a field or a field changes its meaning; new fields and types of lines leave it. */
export const progressProtocol = 1;

/** The first line. */
export interface StartLine {
  readonly type: "start";
  readonly protocol: typeof progressProtocol;
  readonly lowrank: string;
  readonly command: "train";
  readonly out: string;
  readonly pid: number;
}

/** The last line of a run that ended in order, done or interrupted. */
export interface ResultLine extends TrainSummary {
  readonly type: "result";
}

/** The last line of any other. */
export interface ErrorLine {
  readonly type: "error";
  /** The exit code that follows: 1 for what the user can mend, 2 for wrong usage, 3 for a fault of lowrank's. */
  readonly code: number;
  readonly message: string;
}

export type ProgressLine =
  | StartLine
  | Exclude<TrainEvent, { readonly type: "done" }>
  | ResultLine
  | ErrorLine;

/** The line of an event; the summary of "done" is the last line's. */
export function progressLine(event: TrainEvent): ProgressLine | undefined {
  return event.type === "done" ? undefined : event;
}
