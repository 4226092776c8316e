// A comparison: its table as compare.md has it, quality against memory, and the courses of its runs.

import { useMemo } from "preact/hooks";
import type { CompareView as Comparison } from "../../api.ts";
import { useAsked } from "../asked.ts";
import { Chart, Swatch } from "../chart.tsx";
import { bytes, short } from "../numbers.ts";
import { Loading, Scroll } from "../parts.tsx";
import type { Line } from "../plot.ts";
import { linkTo } from "../route.ts";
import { compares } from "../run-store.ts";
import { calls } from "../server-calls.ts";
import { smoothed } from "../smooth.ts";

export function CompareView({ id }: { id: string }) {
  const changed = compares.value.find((one) => one.id === id)?.changedMs;
  const asked = useAsked(`${id} ${changed}`, (signal) => calls.compare(id, signal));
  const view = asked.value;
  return (
    <>
      <nav class="crumbs" aria-label="Way here">
        <a href={linkTo([])}>Runs</a> <span aria-hidden="true">/</span> <span aria-current="page">{id}</span>
      </nav>
      <h1>{id}</h1>
      {view ? <Whole view={view} /> : <Loading what="Reading the comparison…" error={asked.error} />}
    </>
  );
}

function Whole({ view }: { view: Comparison }) {
  const trained = view.rows.filter(({ course }) => course.length > 1);
  const colorOf = (name: string) => trained.findIndex((row) => row.name === name);
  return (
    <>
      <p class="muted">
        {view.summary.model} on {view.summary.data} · {view.summary.status}
      </p>
      <section class="card" aria-labelledby="table-title">
        <h2 id="table-title">Table</h2>
        <Scroll label="The comparison's table">
          <table class="compare">
            <thead>
              <tr>
                {view.heading.map((name) => (
                  <th scope="col" key={name}>
                    {name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {view.cells.map((cells) => {
                const [name, ...rest] = cells;
                const run = view.rows.find((row) => row.name === name)?.run;
                const color = colorOf(name!);
                return (
                  <tr key={name}>
                    <th scope="row">
                      {color >= 0 && <Swatch line={{ color }} />}{" "}
                      {run === undefined ? name : <a href={linkTo(["run", run])}>{name}</a>}
                    </th>
                    {rest.map((cell, i) => (
                      <td key={view.heading[i + 1]} class="num">
                        {cell}
                      </td>
                    ))}
                  </tr>
                );
              })}
            </tbody>
          </table>
        </Scroll>
        {view.notes.map((note) => (
          <p class="note" key={note}>
            {note}
          </p>
        ))}
      </section>
      <div class="pair">
        <Quality view={view} colorOf={colorOf} />
        <Courses view={view} colorOf={colorOf} />
      </div>
      <Rates view={view} colorOf={colorOf} />
    </>
  );
}

interface PartProps {
  readonly view: Comparison;
  readonly colorOf: (name: string) => number;
}

/** Points with their 95% intervals, drawn as bars of twice the standard error. */
function Quality({ view, colorOf }: PartProps) {
  const { quality } = view;
  const lines = useMemo(
    () =>
      view.rows.flatMap((row): Line[] => {
        const [y, x] = [row.scores[quality], row.peakBytes];
        if (y === undefined || x === undefined) return [];
        const error = row.standardErrors[quality];
        return [
          {
            label: row.name,
            color: Math.max(0, colorOf(row.name)),
            xs: [x / 1e6],
            ys: [y],
            look: "points",
            ...(error !== undefined && { errors: [error] }),
          },
        ];
      }),
    [view],
  );
  return (
    <Chart
      title={`${quality} against memory`}
      lines={lines}
      xLabel="peak memory, MB"
      yLabel={quality}
      height={300}
      note="Bars: two standard errors."
      xValue={(x) => bytes(x * 1e6)}
    />
  );
}

function Courses({ view, colorOf }: PartProps) {
  const lines = useMemo(
    () =>
      view.rows
        .filter(({ course }) => course.length > 1)
        .map(
          ({ name, course }): Line => ({
            label: name,
            color: colorOf(name),
            xs: course.map(([step]) => step),
            ys: smoothed(
              course.map(([, loss]) => loss),
              0.9,
            ),
          }),
        ),
    [view],
  );
  return (
    <Chart title="Training loss, smoothed" lines={lines} xLabel="step" yLabel="nats a token" height={300} />
  );
}

/** Validation loss by the learning rates that were tried. */
function Rates({ view, colorOf }: PartProps) {
  const lines = useMemo(
    () =>
      view.rows
        .filter(({ tried }) => tried.length > 1)
        .map(({ name, tried }): Line => {
          const sorted = [...tried].sort((one, other) => one.learningRate - other.learningRate);
          return {
            label: name,
            color: Math.max(0, colorOf(name)),
            xs: sorted.map(({ learningRate }) => learningRate),
            ys: sorted.map(({ validationLoss }) => validationLoss),
            look: "points",
          };
        }),
    [view],
  );
  if (lines.length === 0) return null;
  return (
    <Chart
      title="Validation loss by learning rate"
      lines={lines}
      xLabel="learning rate"
      yLabel="nats a token"
      height={240}
      logX
      xValue={short}
      note="Rates that diverged are left out."
    />
  );
}
