// Columns of a run's numbers: lines that come in are appended, lines that a resumed run took back are cut off, and views
// take from them what they draw. Pure functions over api.ts' tables.

import type { LiveEvent, RunMetrics, Series, SeriesTable } from "../api.ts";

type Column = readonly (number | null)[];
type MetricsEvent = Extract<LiveEvent, { type: "metrics" }>;

/** Lines that are known already, because the stream said them too, come in once. */
export function appendMetrics(known: RunMetrics, event: MetricsEvent): RunMetrics {
  const train = append(known.train, event.train);
  return {
    ...known,
    steps: known.steps + train.step.length - known.train.step.length,
    train,
    eval: append(known.eval, event.eval),
    forget: append(known.forget, event.forget),
  };
}

function append(table: SeriesTable, more: SeriesTable): SeriesTable {
  const last = table.step.at(-1) ?? -1;
  const from = more.step.findIndex((step) => step > last);
  if (from < 0) return table;
  const step = [...table.step, ...more.step.slice(from)];
  const series: Record<string, Series> = {};
  for (const name of new Set([...Object.keys(table.series), ...Object.keys(more.series)])) {
    const old = table.series[name];
    const added = more.series[name]?.mean.slice(from);
    const join = (column: Column | undefined): Column => [
      ...(column ?? new Array<null>(table.step.length).fill(null)),
      ...(added ?? new Array<null>(more.step.length - from).fill(null)),
    ];
    series[name] = {
      mean: join(old?.mean),
      ...(old?.min && { min: join(old.min) }),
      ...(old?.max && { max: join(old.max) }),
    };
  }
  return { step, series };
}

/** Without what lies after `step`. */
export function rewound(known: RunMetrics, step: number): RunMetrics {
  const train = cutAfter(known.train, step);
  return {
    ...known,
    train,
    steps: known.steps - known.stepsPerPoint * (known.train.step.length - train.step.length),
    eval: cutAfter(known.eval, step),
    forget: cutAfter(known.forget, step),
    best: known.best.filter((at) => at <= step),
  };
}

function cutAfter(table: SeriesTable, step: number): SeriesTable {
  const end = table.step.findIndex((at) => at > step);
  if (end < 0) return table;
  const cut = (column: Column): Column => column.slice(0, end);
  const series = Object.entries(table.series).map(([name, { mean, min, max }]): [string, Series] => [
    name,
    { mean: cut(mean), ...(min && { min: cut(min) }), ...(max && { max: cut(max) }) },
  ]);
  return { step: table.step.slice(0, end), series: Object.fromEntries(series) };
}

export function column(table: SeriesTable | undefined, name: string): Column | undefined {
  return table?.series[name]?.mean;
}

export const xAxes = ["step", "tokens", "time"] as const;
export type XAxis = (typeof xAxes)[number];
export const xLabels: Readonly<Record<XAxis, string>> = {
  step: "step",
  tokens: "tokens",
  time: "minutes",
};

/** Places of a run's points: steps, tokens so far, or minutes. Where a line does not tell, its step's neighbour does. */
export function placesOf({ train }: RunMetrics, axis: XAxis): readonly number[] {
  if (axis === "step") return train.step;
  let sum = 0;
  if (axis === "tokens") {
    const tokens = column(train, "tokens");
    // A joined point has the mean of the steps since the one before.
    return train.step.map((step, i) => (sum += (tokens?.[i] ?? 0) * (step - (train.step[i - 1] ?? 0))));
  }
  const elapsed = train.series.elapsedMs;
  return train.step.map((_, i) => (sum = Math.max(sum, (elapsed?.max ?? elapsed?.mean)?.[i] ?? 0)) / 60_000);
}

/** The same for evaluations, which know their step alone. */
export function placesOfEvals(metrics: RunMetrics, table: SeriesTable, axis: XAxis): readonly number[] {
  if (axis === "step") return table.step;
  const places = placesOf(metrics, axis);
  const steps = metrics.train.step;
  return table.step.map((step) => {
    const at = steps.findIndex((known) => known >= step);
    return places[at < 0 ? places.length - 1 : at] ?? 0;
  });
}
