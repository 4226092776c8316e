// What may be done with runs from the page: start one, pause, end and resume it. Each is what a user does on the command
// line; the run's own folder and its lock decide whether it can be. How processes are started is launched-runs.ts's,
// how a run hears of a wish, train/run-requests.ts's.

import { lstat } from "node:fs/promises";
import { resolveInput } from "../config/resolve.ts";
import { trainDefinition } from "../config/train-options.ts";
import { givenValues } from "../config/written-options.ts";
import { RequestError } from "../serve/request-error.ts";
import { askRun, type RunRequest } from "../train/run-requests.ts";
import type { RunSummary } from "./api.ts";
import type { ReadablePlaces } from "./readable-places.ts";
import { isAtWork, type RunBook } from "./run-book.ts";
import type { RunEntry } from "./run-entry.ts";
import { atField, formRun, formValues } from "./run-form.ts";
import { newFolderOf } from "./run-places.ts";

export class RunActions {
  constructor(
    private readonly book: RunBook,
    private readonly places: ReadablePlaces,
  ) {}

  async start(body: Readonly<Record<string, unknown>>): Promise<RunSummary> {
    const { id, values } = body;
    if (typeof id !== "string") throw new RequestError("id: expected the name of a new run", "out");
    const out = await newFolderOf(this.book.root, id);
    const given = formValues(values);
    await formRun(given, out, this.places);
    await this.book.launched.launch(id, out, given, false);
    return await this.book.lookAt(id);
  }

  /** RequestError (403) where the page may not name this place. */
  async requireReadable(path: string, key: string): Promise<void> {
    await this.places.require(path, key);
  }

  async ask(id: string, request: RunRequest): Promise<RunSummary> {
    const entry = await this.book.entry(id);
    const { can } = entry.summary!;
    if (!(request === "pause" ? can.pause : can.end)) throw notNow(entry, request);
    await askRun(entry.path, request);
    entry.askedFor(request);
    return await this.book.lookAt(id);
  }

  async resume(id: string): Promise<RunSummary> {
    const entry = await this.book.entry(id);
    const { summary, record } = entry;
    if (isAtWork(summary!) || !summary!.can.resume) throw notNow(entry, "resume");
    // What the page started it with; of a run from a terminal, what its record has.
    const values = await this.valuesOf(id, record?.options);
    if (values.reward !== undefined)
      throw new RequestError(
        `${id}: its rewards are programs, which are run from the command line alone: the same command with --resume`,
        null,
        409,
      );
    atField(() => resolveInput(trainDefinition, { ...values, out: entry.path }, "form"));
    // A process that failed before it made anything has nothing to resume.
    const isThere = (await lstat(entry.path).catch(() => undefined)) !== undefined;
    await this.book.launched.launch(id, entry.path, values, isThere);
    return await this.book.lookAt(id);
  }

  /** What the page started it with, as long as the run in the folder is that one; else what its record has. */
  private async valuesOf(
    id: string,
    recorded: Readonly<Record<string, unknown>> | undefined,
  ): Promise<Readonly<Record<string, unknown>>> {
    const started = await this.book.launched.recipeOf(id);
    if (recorded === undefined && started === undefined)
      throw new RequestError(`${id}: nothing tells what it was started with`, null, 409);
    if (recorded === undefined) return started!;
    const own = givenValues(trainDefinition, withoutPlaces(recorded));
    if (started === undefined) return own;
    const same = (values: Readonly<Record<string, unknown>>) => {
      const options = resolveInput(trainDefinition, { ...values, out: "-" }, "form");
      return JSON.stringify(withoutPlaces(options as unknown as Record<string, unknown>));
    };
    try {
      return same(started) === same(own) ? started : own;
    } catch {
      return own;
    }
  }
}

/** Of an earlier process, not of its run. */
function withoutPlaces(options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { out: _, resume, json, distributed, collectiveTimeout, ui, uiPort, ...rest } = options;
  return rest;
}

function notNow({ summary, holder }: RunEntry, what: string): RequestError {
  const { id, state, can } = summary!;
  const works = state === "running" || state === "starting";
  // Who has no lock yet does not listen yet.
  const why =
    works && holder && what !== "resume" && !can.pause
      ? "it is part of another program, which does not listen"
      : `it is ${state}`;
  return new RequestError(`${id}: it cannot ${what} now: ${why}`, null, 409);
}
