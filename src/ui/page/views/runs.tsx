// The first view: curves of the chosen runs over each other, and the table of all runs of the folder.

import { useMemo, useRef, useState } from "preact/hooks";
import type { RunSummary } from "../../api.ts";
import { Chart, Swatch } from "../chart.tsx";
import { axisOf, clipOf, evalLine, LookBar, linesOf, useLook } from "../curves.tsx";
import { lossUnit, wordsOf } from "../metric-words.ts";
import { duration, moment, short } from "../numbers.ts";
import { Loading, Progress, State } from "../parts.tsx";
import type { Line } from "../plot.ts";
import { decoded, linkTo, place, setQuery } from "../route.ts";
import { colorOfRun, compares, runs, server, truncated, useMetrics } from "../run-store.ts";

/** Of one run in this view: what a screen's width shows. */
const overlayPoints = 600;
/** Runs whose curves are shown until the reader chooses. */
const shownAtFirst = 20;
/** At once: more lines are told apart by nobody, and the server streams the numbers of 100. */
const mostShown = 60;

export function RunsView() {
  const all = runs.value;
  const { query } = place.value;
  const chosen = useMemo(
    () => chosenRuns(all ?? [], query.show),
    [all?.map(({ id }) => id).join("\n"), query.show],
  );
  const metrics = useMetrics(chosen, overlayPoints);
  const drawn = (all ?? []).filter(({ id }) => chosen.includes(id));
  const look = useLook(Math.max(0, ...drawn.map(({ totalSteps, step }) => totalSteps ?? step)));
  const metric = query.metric ?? "loss";
  const names = metricsThere(metrics, metric);
  const lines = useMemo(
    () =>
      chosen.flatMap((id, i): Line[] => {
        const found = metrics[i];
        if (!found) return [];
        const style = { label: id, color: colorOfRun(id) };
        return metric.startsWith("eval.")
          ? evalLine(found, metric.slice(5), look, style)
          : linesOf(found, metric, look, { ...style, bare: chosen.length > 3 });
      }),
    [...metrics, metric, look.axis, look.smooth, chosen],
  );
  if (!all) return <Loading what="Reading the folder…" />;
  if (all.length === 0) return <Nothing />;
  return (
    <>
      <h1 class="hidden">Runs</h1>
      <LookBar look={look}>
        <label class="field-inline">
          <span class="hidden">What is drawn</span>
          <select value={metric} onChange={(event) => setQuery({ metric: event.currentTarget.value })}>
            {names.map((name) => (
              <option key={name} value={name}>
                {wordsOf(name)}
              </option>
            ))}
          </select>
        </label>
      </LookBar>
      <Chart
        title={wordsOf(metric)}
        lines={lines}
        {...axisOf(look)}
        range={clipOf(look, lines)}
        yLabel={/^(eval\.)?loss$/.test(metric) ? lossUnit(drawn) : ""}
        height={300}
        empty={chosen.length === 0 ? "Choose runs below to see their curves." : "No run chosen has this yet."}
      />
      <RunsTable runs={all} chosen={chosen} />
      {truncated.value && <p class="note">There are more runs in this folder than are shown.</p>}
      <Comparisons />
    </>
  );
}

function chosenRuns(all: readonly RunSummary[], show: string | undefined): readonly string[] {
  const ids = all.map(({ id }) => id);
  if (show === undefined) return ids.slice(0, shownAtFirst);
  const wanted = new Set(show.split(",").map(decoded));
  return ids.filter((id) => wanted.has(id)).slice(0, mostShown);
}

function metricsThere(
  metrics: readonly (import("../../api.ts").RunMetrics | undefined)[],
  now: string,
): string[] {
  const names = new Set<string>(["loss", now]);
  const skip = new Set(["elapsedMs", "tokens", "targetTokens"]);
  for (const found of metrics) {
    for (const name of Object.keys(found?.train.series ?? {})) if (!skip.has(name)) names.add(name);
    for (const name of Object.keys(found?.eval.series ?? {})) {
      if (!name.endsWith("StandardError")) names.add(`eval.${name}`);
    }
  }
  return [...names];
}

function RunsTable({ runs: all, chosen }: { runs: readonly RunSummary[]; chosen: readonly string[] }) {
  const body = useRef<HTMLTableSectionElement>(null);
  // Of all rows one is on the way of the Tab key; arrows go from row to row.
  const [active, setActive] = useState(0);
  const here = Math.min(active, all.length - 1);
  const onKeyDown = (event: KeyboardEvent) => {
    const to = { ArrowUp: here - 1, ArrowDown: here + 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || to < 0 || to >= all.length) return;
    event.preventDefault();
    setActive(to);
    const kind = event.target instanceof HTMLInputElement ? "input" : "a";
    body.current?.rows[to]?.querySelector<HTMLElement>(kind)?.focus();
  };
  const choose = (id: string, on: boolean) => {
    const next = all.map((run) => run.id).filter((one) => (one === id ? on : chosen.includes(one)));
    setQuery({ show: next.map(encodeURIComponent).join(",") });
  };
  const some = all.slice(0, mostShown).map(({ id }) => id);
  const everything = chosen.length >= some.length;
  return (
    <section class="card" aria-labelledby="runs-title">
      <div class="card-head">
        <h2 id="runs-title">
          Runs <span class="muted num">{all.length}</span>
        </h2>
        <button
          type="button"
          class="small quiet no-print"
          onClick={() => setQuery({ show: everything ? "" : some.map(encodeURIComponent).join(",") })}
        >
          {everything ? "Draw none" : some.length < all.length ? `Draw ${some.length}` : "Draw all"}
        </button>
      </div>
      <table class="runs">
        <thead>
          <tr>
            <th scope="col">
              <span class="hidden">Drawn</span>
            </th>
            <th scope="col">Run</th>
            <th scope="col">Progress</th>
            <th scope="col" class="right">
              Loss
            </th>
            <th scope="col" class="right evaluation">
              Evaluation
            </th>
            <th scope="col" class="right wide">
              Tokens/s
            </th>
            <th scope="col" class="right wide">
              Time
            </th>
            <th scope="col" class="right wide">
              Changed
            </th>
          </tr>
        </thead>
        <tbody ref={body} onKeyDown={onKeyDown}>
          {all.map((run, i) => (
            <Row
              key={run.id}
              run={run}
              drawn={chosen.includes(run.id)}
              tabIndex={i === here ? 0 : -1}
              onFocus={() => setActive(i)}
              onChoose={(on) => choose(run.id, on)}
            />
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Row(props: {
  readonly run: RunSummary;
  readonly drawn: boolean;
  readonly tabIndex: number;
  readonly onFocus: () => void;
  readonly onChoose: (on: boolean) => void;
}) {
  const { run, drawn, tabIndex } = props;
  return (
    <tr onFocusCapture={props.onFocus}>
      <td class="pick">
        <label>
          <input
            type="checkbox"
            checked={drawn}
            tabIndex={tabIndex}
            aria-label={`Draw ${run.id}`}
            onChange={(event) => props.onChoose(event.currentTarget.checked)}
          />
          {drawn && <Swatch line={{ color: colorOfRun(run.id) }} />}
        </label>
      </td>
      <th scope="row">
        <a href={linkTo(["run", run.id])} tabIndex={tabIndex}>
          {run.id}
        </a>
        <span class="meta muted">{kindOf(run)}</span>
      </th>
      <td class="how">
        <State state={run.state} />
        <Progress run={run} />
      </td>
      <td class="right num">{short(run.loss)}</td>
      <td class="right num evaluation">{short(run.evalLoss)}</td>
      <td class="right num wide">{short(run.tokensPerSecond)}</td>
      <td class="right num wide">{duration(run.elapsedMs)}</td>
      <td class="right num wide muted">{moment(run.changedMs)}</td>
    </tr>
  );
}

const longestName = 80;

/** "SmolLM-135M · qlora, rank 8". */
export function kindOf(run: RunSummary): string {
  const model = run.model
    ?.replace(/[\\/]+$/, "")
    .split(/[\\/]/)
    .at(-1)
    ?.slice(0, longestName);
  const method = [
    run.adapter && run.adapter !== "lora" ? `${run.method} (${run.adapter})` : run.method,
    run.method !== "full" && run.rank ? `rank ${run.rank}` : undefined,
  ];
  const objective = run.objective === "sft" ? undefined : run.objective;
  return [model, method.filter(Boolean).join(", "), objective].filter(Boolean).join(" · ");
}

function Comparisons() {
  if (compares.value.length === 0) return null;
  return (
    <section class="card" aria-labelledby="compares-title">
      <h2 id="compares-title">
        Comparisons <span class="muted num">{compares.value.length}</span>
      </h2>
      <ul class="list">
        {compares.value.map((one) => (
          <li key={one.id}>
            <a href={linkTo(["compare", one.id])}>{one.id}</a>
            <span class="meta muted">
              {one.rows} rows · {one.model} on {one.data} · {one.status}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Nothing() {
  const info = server.value;
  return (
    <>
      <div class="card welcome">
        <h1>No runs here yet</h1>
        <p>
          {info ? (
            <>
              Runs in <code>{info.folder}</code> show up here as soon as they begin:
            </>
          ) : (
            "Runs show up here as soon as they begin:"
          )}
        </p>
        <pre>lowrank train --model tiny --data rows.jsonl --out {info?.folder ?? "runs"}/first</pre>
        {info?.canStart && (
          <p>
            Or <a href={linkTo(["new"])}>start one from a form</a>.
          </p>
        )}
      </div>
      <Comparisons />
    </>
  );
}
