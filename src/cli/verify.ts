// `lowrank verify`: tells what of a chain is as it was, runs steps of a run again, and ends with 0 where all of it holds
// and 1 where something does not. The walk is publish/verify-chain.ts's, the steps are train/replay.ts's.

import { dirname, isAbsolute } from "node:path";
import { trainDefinition } from "../config/train-options.ts";
import { type ReplayChoice, type VerifyOptions, verifyDefinition } from "../config/verify-options.ts";
import { fetchOptions } from "../library/fetch-options.ts";
import { type Link, recordsOf, requireNamed, walkChain } from "../publish/verify-chain.ts";
import {
  type Interval,
  intervalsOf,
  type RecordedRun,
  type ReplayResult,
  replay,
  replayObstacle,
  replayOptions,
} from "../train/replay.ts";
import { UserError } from "../util/errors.ts";
import { type CliCommand, defineCommand } from "./command.ts";
import { exitOnStop } from "./signals.ts";
import { exitCodes, type Terminal } from "./terminal.ts";

interface Replayed {
  readonly replays: readonly ReplayResult[];
  /** Why steps were not made again. */
  readonly notReplayed?: string;
}

const verify = defineCommand(verifyDefinition, async (options, terminal) => {
  exitOnStop();
  const records = await recordsOf(options.path);
  const { model, data } = options;
  const walked = await walkChain(records, {
    ...{ model, data },
    onLink: (link) => terminal.status(`checked ${link.file}`),
  });
  terminal.status("");
  const { links } = walked;
  await requireNamed(options.path, links);
  const own = walked.records.find(({ path }) => /(^|[\\/])run\.json$/.test(path) && records.includes(path));
  const ownLink = links.find(({ record, role }) => record === own?.path && role === "record");
  const run = own?.json ?? (own && ownLink?.state === "not found" ? await unfinished(own.path) : undefined);
  // A relative path of rows that are not there could be taken for the name of a data set on the hub.
  const away = links.find(
    ({ record, role, state, file }) =>
      record === own?.path &&
      state === "not found" &&
      ["data", "eval-data", "forget"].includes(role) &&
      !/^memory:/.test(file) &&
      !isAbsolute(file),
  );
  const { replays, notReplayed }: Replayed =
    !own || !run
      ? { replays: [] }
      : ownLink?.state === "broken"
        ? { replays: [], notReplayed: `${own.path} is not as it was written` }
        : away && options.data?.length !== 1 && options.steps.kind !== "none"
          ? { replays: [], notReplayed: `${away.file}: ${away.problem}` }
          : await replayed(dirname(own.path), run as RecordedRun, options, terminal);
  const broken = links.filter(({ state }) => state === "broken");
  const sound = broken.length === 0 && replays.every(({ passed }) => passed);
  const absent = links.filter(({ state }) => state === "not found");
  if (terminal.json) terminal.document({ sound, broken, notFound: absent, links, replays, notReplayed });
  else {
    for (const line of linkLines(links)) terminal.print(line);
    for (const line of replays.flatMap(replayLines)) terminal.print(line);
    if (notReplayed !== undefined) terminal.print(`not made again: ${notReplayed}`);
    const missing = absent.length === 0 ? "" : `; ${absent.length} could not be looked at`;
    const held = links.length - broken.length - absent.length;
    terminal.print(
      sound
        ? `Sound: ${held} links hold${missing}.`
        : `Broken: ${broken.length} of ${links.length} links${missing}${replays.every(({ passed }) => passed) ? "" : "; steps came out otherwise"}.`,
    );
  }
  return sound ? exitCodes.done : exitCodes.userError;
});

/** The path may stand before the flags. */
export const command: CliCommand = {
  definition: verifyDefinition,
  main(argv) {
    const [first, ...rest] = argv;
    const alone = first !== undefined && !first.startsWith("-") && !/\.ya?ml$/i.test(first);
    return verify.main(alone ? ["--path", first, ...rest] : argv);
  },
};

/** A run that has no chain yet can be replayed as far as its checkpoints go. */
async function unfinished(path: string): Promise<RecordedRun | undefined> {
  const { readFile } = await import("node:fs/promises");
  try {
    const record = JSON.parse(await readFile(path, "utf8")) as RecordedRun | null;
    return record ?? undefined;
  } catch {
    return undefined;
  }
}

async function replayed(
  out: string,
  record: RecordedRun,
  options: VerifyOptions,
  terminal: Terminal,
): Promise<Replayed> {
  if (options.steps.kind === "none") return { replays: [] };
  const { model, data, threads } = options;
  const obstacle = replayObstacle(record, data);
  if (obstacle !== undefined) return { replays: [], notReplayed: obstacle };
  const chosen = choose(await intervalsOf(out), options.steps);
  if (chosen.length === 0)
    return { replays: [], notReplayed: "no checkpoint of it is there to begin or to end with" };
  const replays: ReplayResult[] = [];
  const own = { model, data, threads };
  try {
    await fetchOptions(trainDefinition, replayOptions(record, out, { from: 0, total: 1 }, own), {
      warn: terminal.warn,
      note: terminal.note,
    });
    for (const interval of chosen) {
      terminal.note(`making steps ${interval.from + 1} to ${interval.to} again`);
      replays.push(
        await replay(out, record, interval, {
          ...own,
          tolerance: options.tolerance,
          tell: (event) => {
            if (event.type === "train") terminal.status(`step ${event.step} of ${interval.to}`);
          },
        }),
      );
      terminal.status("");
    }
    return { replays };
  } catch (error) {
    terminal.status("");
    if (!(error instanceof UserError)) throw error;
    return { replays, notReplayed: error.message };
  }
}

function choose(intervals: readonly Interval[], choice: ReplayChoice): Interval[] {
  const end = intervals.at(-1)?.to ?? 0;
  switch (choice.kind) {
    case "none":
      return [];
    case "all":
      return [...intervals];
    case "last":
      return intervals.filter(({ to }) => to > end - choice.count);
    case "range":
      return intervals.filter(({ from, to }) => from < choice.last && to >= choice.first);
  }
}

function linkLines(links: readonly Link[]): string[] {
  const marks = { sound: "ok", broken: "BROKEN", "not found": "not found" } as const;
  let record = "";
  return links.flatMap((link) => {
    const heading = link.record === record ? [] : [`${link.record}`];
    record = link.record;
    const why = link.problem === undefined ? "" : `: ${link.problem}`;
    return [...heading, `  ${marks[link.state].padEnd(9)} ${link.role.padEnd(10)} ${link.file}${why}`];
  });
}

function replayLines(result: ReplayResult): string[] {
  const { from, to, sameKind, identical, passed, tolerance, largestLossDifference: largest } = result;
  const steps = `steps ${from + 1} to ${to}`;
  if (identical) return [`${steps}: bit-identical (${["metrics", ...result.equalFiles].join(", ")})`];
  const where = sameKind ? "on a machine of the same kind" : "on a machine of another kind";
  const weights = `, weights by ${result.weightDifference.toExponential(1)}`;
  const verdict = `${steps}: ${passed ? "within the bound" : "NOT THE SAME"} ${where}: losses differ by ${largest.toExponential(1)} at most (bound ${sameKind ? 0 : tolerance})${weights}`;
  return passed ? [verdict] : [verdict, ...result.differences.map((text) => `  ${text}`)];
}
