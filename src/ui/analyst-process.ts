// The analysing process: takes a task at a time from the server that started it (analyst.ts), and ends with it. What the
// tasks are: analyst-tasks.ts.

import { BugError, errorToData } from "../util/errors.ts";
import type { AnalystReply } from "./analyst.ts";
import { analystTasks } from "./analyst-tasks.ts";

if (process.send) {
  const send = process.send.bind(process);
  // Without its server, nobody would hear.
  process.on("disconnect", () => process.kill(process.pid, "SIGTERM"));
  process.on("message", ({ number, name, job }: { number: number; name: string; job: unknown }) => {
    void answer(name, job).then((reply) => send({ number, ...reply }));
  });
}

async function answer(name: string, job: unknown): Promise<Omit<AnalystReply, "number">> {
  try {
    const task = Object.hasOwn(analystTasks, name)
      ? (analystTasks as Readonly<Record<string, (job: never) => Promise<unknown>>>)[name]
      : undefined;
    if (!task) throw new BugError(`there is no task "${name}"`);
    return { result: await task(job as never) };
  } catch (error) {
    return { error: errorToData(error) };
  }
}
