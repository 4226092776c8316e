// Training that is killed or interrupted, and resumed: metrics.jsonl and the adapter equal an uninterrupted run's byte
// for byte. Kills are SIGKILL at random moments: one while the program starts, the others somewhere in or after a
// random step, so that some fall into the writing of a checkpoint.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { optimizerNames } from "../../src/optim/index.ts";
import { Random } from "../../src/util/rng.ts";
import {
  backendName,
  filesOf,
  makeRows,
  resultOf,
  scratchFolder,
  startLowrank,
  succeed,
  summaryIn,
  until,
  writeRows,
  writeTinyModel,
} from "./lowrank.ts";

const folder = scratchFolder();
const model = writeTinyModel(join(folder, "model"));
const data = writeRows(join(folder, "rows.jsonl"), makeRows(50));
const others = writeRows(
  join(folder, "others.jsonl"),
  makeRows(9).map(({ prompt, completion }) => ({ q: `other ${prompt}`, a: completion })),
);
const steps = 80;

const settings: Record<string, string[]> = {
  plain: ["--batch-size", "2"],
  "dropout, packing, accumulation, evaluation": [
    ..."--dropout 0.2 --packing --sequence-length 64 --batch-size 1 --gradient-accumulation 3".split(" "),
    ..."--eval-fraction 0.1 --eval-every 7 --weight-decay 0.1 --warmup-steps 5 --rslora".split(" "),
    ...["--targets", "q,v,down", "--gradient-checkpointing", "on"],
  ],
  "a mix of weighted sources": [
    ...["--batch-size", "2", "--eval-fraction", "0.1", "--deduplicate", "--data-limit", "40"],
    ...["--data", `${others}:weight=3,columns.prompt=q,columns.completion=a`],
  ],
};

const trainArgs = (out: string, more: readonly string[]) => [
  ...["train", "--model", model, "--data", data, "--out", out, "--backend", backendName],
  ...[
    "--max-steps",
    String(steps),
    "--save-every",
    "2",
    "--keep",
    "2",
    "--no-timing",
    "--rank",
    "4",
    ...more,
  ],
];

const linesOf = (path: string) =>
  existsSync(path) ? readFileSync(path, "utf8").split('"type":"train"').length - 1 : 0;

for (const [name, more] of Object.entries(settings)) {
  it(`killed five times: ${name}`, async () => {
    const whole = join(folder, `${name} whole`);
    succeed(...trainArgs(whole, more));
    const expected = resultOf(whole);

    const seed = Date.now() % 2 ** 31;
    const random = new Random(seed);
    const out = join(folder, `${name} killed`);
    const metrics = join(out, "metrics.jsonl");
    const args = trainArgs(out, more);
    const resuming = () => (existsSync(out) ? [...args, "--resume"] : args);
    // Far from the end, so that no run is over before it is killed.
    const moments = Array.from({ length: 4 }, () => 1 + random.nextInt(steps - 25)).sort((a, b) => a - b);
    for (const moment of [0, ...moments]) {
      const { child, finished } = startLowrank(resuming());
      if (moment === 0) await sleep(random.nextInt(400));
      else await until(() => linesOf(metrics) >= moment, finished);
      await sleep(random.nextInt(12));
      child.kill("SIGKILL");
      const { signal, stderr } = await finished;
      expect(signal, `seed ${seed}: a run ended before step ${moment}: ${stderr}`).toBe("SIGKILL");
    }
    succeed(...resuming());
    expect(resultOf(out), `seed ${seed}`).toEqual(expected);
    const leftovers = readdirSync(join(out, "checkpoints")).filter((entry) => !/^step-\d+$/.test(entry));
    expect(leftovers).toEqual([]);
  });
}

const methods: Record<string, string[]> = {
  lora: ["--dropout", "0.1"],
  full: ["--method", "full", "--max-steps", "25", "--learning-rate", "1e-4", "--gradient-accumulation", "2"],
};

for (const [method, flags] of Object.entries(methods)) {
  it(`Ctrl-C finishes the step, saves, exits with 130; the rest is the same run: ${method}`, async () => {
    const whole = join(folder, `${method} whole`);
    const more = [...flags, "--save-every", "1000"];
    succeed(...trainArgs(whole, more));
    const out = join(folder, `${method} interrupted`);
    const { child, finished } = startLowrank([...trainArgs(out, more), "--json"]);
    await until(() => linesOf(join(out, "metrics.jsonl")) > 0, finished);
    child.kill("SIGINT");
    const { status, stdout, stderr } = await finished;
    expect(status, stderr).toBe(130);
    const summary = summaryIn(stdout);
    expect(summary).toMatchObject({ status: "interrupted", out });
    expect(summary.checkpoint).toBe(join(out, "checkpoints", `step-${summary.steps}`));
    expect(JSON.parse(readFileSync(join(out, "run.json"), "utf8")).status).toBe("interrupted");
    const files =
      method === "full"
        ? ["metrics.jsonl", "model.safetensors", "config.json", "tokenizer.json"]
        : ["metrics.jsonl", "adapter_model.safetensors", "adapter_config.json"];
    expect(existsSync(join(out, files[1]!))).toBe(false);
    expect(existsSync(join(summary.checkpoint, "adapter_model.safetensors"))).toBe(method === "lora");
    succeed(...trainArgs(out, more), "--resume");
    expect(filesOf(out, files)).toEqual(filesOf(whole, files));
  });
}

it.each(optimizerNames)("made longer, %s: the same as in one go", (optimizer) => {
  const args = (out: string, total: number) => [
    ...["train", "--model", model, "--data", data, "--out", join(folder, out), "--backend", backendName],
    ...["--optimizer", optimizer, "--schedule", "constant", "--max-steps", String(total), "--no-timing"],
  ];
  const [whole, parts] = [`${optimizer} whole`, `${optimizer} parts`];
  succeed(...args(whole, 8));
  succeed(...args(parts, 4));
  succeed(...args(parts, 8), "--resume");
  expect(resultOf(join(folder, parts))).toEqual(resultOf(join(folder, whole)));
});
