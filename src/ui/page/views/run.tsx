// One run: what it is, how far it has come and what may be done with it, above the tabs with its curves, speed, memory,
// rows, samples, layers and recipe. Each tab is a file beside this one.

import { useState } from "preact/hooks";
import type { RunMetrics, RunSummary } from "../../api.ts";
import { useAsked } from "../asked.ts";
import { column } from "../metrics-columns.ts";
import { count, duration, percent, short, withError } from "../numbers.ts";
import { Confirm, Facts, Loading, Progress, State, Tabs } from "../parts.tsx";
import { linkTo, place, setQuery } from "../route.ts";
import { metricsError, putRun, runs, useMetrics } from "../run-store.ts";
import { calls } from "../server-calls.ts";
import { LayersTab } from "./layers.tsx";
import { MemoryTab } from "./memory.tsx";
import { RecipeTab } from "./recipe.tsx";
import { RowsTab } from "./rows.tsx";
import { kindOf } from "./runs.tsx";
import { SamplesTab } from "./samples.tsx";
import type { TabProps } from "./tab-props.ts";
import { TrainingTab } from "./training.tsx";

const tabs = [
  { id: "training", label: "Training" },
  { id: "memory", label: "Speed and memory" },
  { id: "rows", label: "Rows" },
  { id: "samples", label: "Samples" },
  { id: "layers", label: "Layers" },
  { id: "recipe", label: "Recipe" },
] as const;

/** Points of one run: steps are joined beyond them. */
const runPoints = 4000;

export function RunView({ id }: { id: string }) {
  const live = runs.value?.find((run) => run.id === id);
  const [metrics] = useMetrics([id], runPoints);
  // A run's record is written when it begins and when it ends, its checkpoints now and then.
  const news = `${live?.state} ${metrics?.eval.step.length} ${Math.floor((live?.step ?? 0) / 200)}`;
  const detail = useAsked(`${id} ${news}`, (signal) => calls.detail(id, signal));
  const tab = tabs.find((one) => one.id === place.value.query.tab)?.id ?? "training";
  const run = live ?? detail.value?.summary;
  // What was read of it before is no longer so.
  if (!live && runs.value && detail.error && detail.value) return <Gone id={id} error={detail.error} />;
  if (!run || !detail.value)
    return (
      <>
        <Crumbs id={id} />
        <Loading what="Reading the run…" error={detail.error} />
      </>
    );
  const given: TabProps = { run, detail: detail.value, metrics };
  return (
    <>
      <Crumbs id={id} />
      <header class="run-head">
        <div class="run-title">
          <h1>{id}</h1>
          <span role="status">
            <State state={run.state} />
          </span>
        </div>
        <p class="muted kind">{kindOf(run)}</p>
        <Steering run={run} />
        <Progress run={run} />
      </header>
      {run.error && (
        <pre class="problem" role="alert">
          {run.error}
        </pre>
      )}
      {detail.value.stoppedEarly && (
        <p class="note">
          It ended before its last step: {detail.value.toldToEnd ? "it was told to" : "by --patience"}.
        </p>
      )}
      {metricsError(id) && <p class="problem">{metricsError(id)}</p>}
      <Facts facts={factsOf(given)} />
      <Tabs
        label="Views of the run"
        panel="run-panel"
        tabs={tabs}
        chosen={tab}
        onChoose={(next) => setQuery({ tab: next === "training" ? undefined : next })}
      />
      <div id="run-panel" role="tabpanel" aria-labelledby={`tab-${tab}`}>
        {tab === "training" && <TrainingTab {...given} />}
        {tab === "memory" && <MemoryTab {...given} onPeak={detail.again} />}
        {tab === "rows" && <RowsTab {...given} />}
        {tab === "samples" && <SamplesTab {...given} />}
        {tab === "layers" && <LayersTab {...given} />}
        {tab === "recipe" && <RecipeTab {...given} />}
      </div>
    </>
  );
}

function Gone({ id, error }: { id: string; error: string }) {
  return (
    <>
      <Crumbs id={id} />
      <div class="card problem" role="alert">
        <h1>{id} is not here any more</h1>
        <p>Its folder was removed, or has another name now: {error}.</p>
        <p>
          <a href={linkTo([])}>All runs</a>
        </p>
      </div>
    </>
  );
}

function Crumbs({ id }: { id: string }) {
  return (
    <nav class="crumbs" aria-label="Way here">
      <a href={linkTo([])}>Runs</a> <span aria-hidden="true">/</span> <span aria-current="page">{id}</span>
    </nav>
  );
}

function factsOf({ run, detail, metrics }: TabProps): [string, preact.ComponentChildren][] {
  const evalLoss = column(metrics?.eval, "loss")?.findLast((loss) => loss !== null) ?? run.evalLoss;
  const evalError =
    column(metrics?.eval, "lossStandardError")?.findLast((error) => error !== null) ?? undefined;
  const speed = run.tokensPerSecond;
  const peak = detail.peakTokensPerSecond;
  const left = run.state === "running" ? timeLeft(run, metrics) : undefined;
  return [
    ["Loss", short(run.loss)],
    ["Evaluation", withError(evalLoss ?? undefined, evalError)],
    ...(detail.best
      ? [["Best", `${short(detail.best.value)} at step ${count(detail.best.step)}`] as [string, string]]
      : []),
    ["Tokens a second", peak && speed ? `${short(speed)} (${percent(speed / peak)} of peak)` : short(speed)],
    [
      "Time",
      left === undefined ? duration(run.elapsedMs) : `${duration(run.elapsedMs)}, ${duration(left)} left`,
    ],
    ...(detail.trainableParameters !== undefined
      ? [
          [
            "Trains",
            `${short(detail.trainableParameters)}${detail.totalParameters ? ` of ${short(detail.totalParameters)}` : ""}`,
          ] as [string, string],
        ]
      : []),
    ...(detail.device ? [["Device", detail.device] as [string, string]] : []),
  ];
}

/** By the pace of the last steps. */
function timeLeft(run: RunSummary, metrics: RunMetrics | undefined): number | undefined {
  const steps = metrics?.train.step ?? [];
  const elapsed = column(metrics?.train, "elapsedMs");
  if (!elapsed || steps.length < 2 || run.totalSteps === undefined) return undefined;
  const last = steps.length - 1;
  const from = Math.max(0, last - 50);
  const pace = (elapsed[last]! - elapsed[from]!) / (steps[last]! - steps[from]!);
  return pace > 0 ? pace * (run.totalSteps - run.step) : undefined;
}

const questions = {
  pause: {
    verb: "Pause",
    title: (id: string) => `Pause ${id}?`,
    text: "The run finishes its step, saves a checkpoint and stops. It can be resumed to the same bits.",
  },
  end: {
    verb: "End",
    title: (id: string) => `End ${id} here?`,
    text: "The run finishes its step and its weights of now become the result. Steps that were planned are left out.",
  },
  resume: {
    verb: "Resume",
    title: (id: string) => `Resume ${id}?`,
    text: "The run goes on from its newest checkpoint, as if it had never stopped.",
  },
} as const;
type Verb = keyof typeof questions;

function Steering({ run }: { run: RunSummary }) {
  const [asked, setAsked] = useState<Verb>();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string>();
  const verbs = (["pause", "resume", "end"] as const).filter((verb) => run.can[verb]);
  if (verbs.length === 0 && !error) return null;
  const steer = async (verb: Verb) => {
    setAsked(undefined);
    setBusy(true);
    setError(undefined);
    try {
      putRun(await calls.steer(run.id, verb));
    } catch (failed) {
      setError(failed instanceof Error ? failed.message : String(failed));
    }
    setBusy(false);
  };
  return (
    <div class="steering no-print">
      {verbs.map((verb) => (
        <button
          type="button"
          key={verb}
          disabled={busy}
          class={verb === "resume" ? "primary" : ""}
          onClick={() => setAsked(verb)}
        >
          {questions[verb].verb}
        </button>
      ))}
      {error && (
        <p class="problem" role="alert">
          {error}
        </p>
      )}
      {asked && (
        <Confirm
          title={questions[asked].title(run.id)}
          verb={questions[asked].verb}
          danger={asked === "end"}
          onYes={() => void steer(asked)}
          onNo={() => setAsked(undefined)}
        >
          <p>{questions[asked].text}</p>
        </Confirm>
      )}
    </div>
  );
}
