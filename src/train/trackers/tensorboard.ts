// TensorBoard's event files in DIR/tensorboard, a file for each time that the run was started. Files are read in the
// order of their names, so a later one has a later time in its name. Each begins with a start at the first step of its
// part, where readers forget what they have of that step and later ones, so that nothing stands there twice. Numbers are
// f32, as scalars are there. The bytes are event-file.ts's.

import { type FileHandle, open, readdir } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { makeFolder } from "../../formats/make-folder.ts";
import { recipeRecord, restartRecord, scalarsRecord, textRecord, versionRecord } from "./event-file.ts";
import { marksAfter } from "./event-file-marks.ts";
import { lastSteps } from "./metrics-lines.ts";
import type { Marks, Point } from "./points.ts";
import type { TrackedRun, Tracker, TrackerKind } from "./tracker.ts";

export const tensorboard: TrackerKind = {
  create: ({ out }) => new EventFiles(join(out, "tensorboard")),
};

const namePattern = /^events\.out\.tfevents\.(\d{10})\./;

class EventFiles implements Tracker {
  readonly name = "tensorboard";
  readonly batchPoints = 1000;
  private file: FileHandle | undefined;
  private sizeBytes = 0;

  constructor(readonly place: string) {}

  async open(run: TrackedRun): Promise<Marks> {
    await makeFolder(this.place);
    const seconds = Date.now() / 1000;
    const earlier = (await readdir(this.place)).filter((name) => namePattern.test(name)).sort();
    const stamps = earlier.map((name) => Number(namePattern.exec(name)![1]) + 1);
    const stamp = Math.max(Math.floor(seconds), ...stamps);
    const host = hostname()
      .replace(/[^\w-]/g, "_")
      .slice(0, 60);
    const name = `events.out.tfevents.${stamp}.${host}.${process.pid}.0`;
    let marks: Marks = {};
    for (const each of earlier) marks = await marksAfter(join(this.place, each), marks);
    const from = run.firstStep > 1 ? await restartOf(run, marks) : 0;
    await this.close();
    this.file = await open(join(this.place, name), "wx");
    this.sizeBytes = 0;
    await this.append([
      versionRecord(seconds, from),
      // TensorBoard takes the first start that it meets for none of a resumed run: without one in the first file, a
      // second file's would do nothing.
      restartRecord(seconds, from),
      recipeRecord(seconds, run.name, run.recipe),
      textRecord(seconds, from, "recipe", table(run.recipe)),
    ]);
    const left = Object.entries(marks).map(([kind, step]) => [kind, Math.min(step, from - 1)]);
    return Object.fromEntries(left) as Marks;
  }

  async send(points: readonly Point[]): Promise<void> {
    await this.append(
      points.map(({ step, values, text, timeMs }) =>
        text
          ? textRecord(timeMs / 1000, step, "sample", `**${text.prompt}**\n\n${text.text}`)
          : scalarsRecord(timeMs / 1000, step, values),
      ),
    );
  }

  async close(): Promise<void> {
    await this.file?.close();
    this.file = undefined;
  }

  /** Whole or, as far as readers go, not at all: what failed in the middle is written over by the next try. */
  private async append(records: readonly Uint8Array[]): Promise<void> {
    const bytes = Buffer.concat(records);
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.file!.write(
        bytes,
        done,
        bytes.length - done,
        this.sizeBytes + done,
      );
      done += bytesWritten;
    }
    this.sizeBytes += bytes.length;
  }
}

/**
 * Where readers are to forget from: the run's next step, or the one before it where the files have an evaluation of that
 * step which metrics.jsonl has no more. A run that is made longer is without what only the shorter one's end evaluated.
 */
async function restartOf({ out, firstStep }: TrackedRun, marks: Marks): Promise<number> {
  const kept = await lastSteps(join(out, "metrics.jsonl"), firstStep);
  const last = firstStep - 1;
  const gone = (["eval", "forget", "average"] as const).some(
    (kind) => (marks[kind] ?? -1) >= last && kept[kind] !== last,
  );
  return gone ? last : firstStep;
}

function table(recipe: TrackedRun["recipe"]): string {
  const rows = Object.entries(recipe).map(
    ([key, value]) => `| ${key} | ${String(value).replace(/[|\n]/g, " ")} |`,
  );
  return ["| option | value |", "|---|---|", ...rows].join("\n");
}
