// How lines are looked at: the switches above charts (smoothing, axes, outliers), kept in the address, and what they
// make of a run's columns. Drawing: chart.tsx.

import { useState } from "preact/hooks";
import type { RunMetrics } from "../api.ts";
import { column, placesOf, placesOfEvals, type XAxis, xAxes, xLabels } from "./metrics-columns.ts";
import { Choice } from "./parts.tsx";
import type { Line } from "./plot.ts";
import { place, setQuery } from "./route.ts";
import { middleRange, smoothed, usualSmooth } from "./smooth.ts";

export interface CurveLook {
  readonly axis: XAxis;
  readonly smooth: number;
  readonly log: boolean;
  /** The middle 98% of the values decide the range. */
  readonly clip: boolean;
}

/** `steps` are the longest run's. */
export function useLook(steps = Number.POSITIVE_INFINITY): CurveLook {
  const { query } = place.value;
  const usual = usualSmooth(steps);
  const given = Number(query.smooth ?? usual);
  return {
    axis: xAxes.find((name) => name === query.x) ?? "step",
    smooth: Number.isFinite(given) ? Math.min(0.99, Math.max(0, given)) : usual,
    log: query.log === "1",
    clip: query.clip === "1",
  };
}

const axisWords = { step: "Steps", tokens: "Tokens", time: "Time" } as const;

export function LookBar({ look, children }: { look: CurveLook; children?: preact.ComponentChildren }) {
  const [moved, setMoved] = useState<number>();
  const smooth = moved ?? look.smooth;
  return (
    <div class="look no-print">
      {children}
      <label class="slider">
        <span>Smoothing</span>
        <input
          type="range"
          min={0}
          max={0.99}
          step={0.01}
          value={smooth}
          onInput={(event) => {
            const value = event.currentTarget.value;
            setMoved(Number(value));
            setQuery({ smooth: value });
          }}
        />
        <output class="num">{smooth.toFixed(2)}</output>
      </label>
      <Choice
        label="Horizontal axis"
        options={xAxes.map((name) => [name, axisWords[name]] as const)}
        chosen={look.axis}
        onChoose={(x) => setQuery({ x: x === "step" ? undefined : x })}
      />
      <label class="check">
        <input
          type="checkbox"
          checked={look.log}
          onChange={(event) => setQuery({ log: event.currentTarget.checked ? "1" : undefined })}
        />
        Log scale
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={look.clip}
          onChange={(event) => setQuery({ clip: event.currentTarget.checked ? "1" : undefined })}
        />
        Without outliers
      </label>
    </div>
  );
}

/** A column of a run as one line, or as a faint one behind its smoothed self. */
export function linesOf(
  metrics: RunMetrics,
  name: string,
  look: CurveLook,
  { label, color, bare = false }: { label: string; color: number; bare?: boolean },
): Line[] {
  const ys = column(metrics.train, name);
  if (!ys) return [];
  const xs = placesOf(metrics, look.axis);
  if (look.smooth === 0) return [{ label, color, xs, ys }];
  const line: Line = { label, color, xs, ys: smoothed(ys, look.smooth) };
  if (bare) return [line];
  const measured: Line = { label: `${label}, as measured`, color, xs, ys, look: "faint" };
  return [measured, { ...line, label: `${label}, smoothed` }];
}

export function evalLine(
  metrics: RunMetrics,
  name: string,
  look: CurveLook,
  { label, color, table = "eval" }: { label: string; color: number; table?: "eval" | "forget" },
): Line[] {
  const of = metrics[table];
  const ys = column(of, name);
  if (!ys?.some((y) => y !== null)) return [];
  const errors = column(of, `${name}StandardError`);
  return [
    {
      label,
      color,
      xs: placesOfEvals(metrics, of, look.axis),
      ys,
      look: "points",
      ...(errors && { errors }),
    },
  ];
}

export function axisOf(look: CurveLook): { xLabel: string; log: boolean } {
  return { xLabel: xLabels[look.axis], log: look.log };
}

export function clipOf(look: CurveLook, lines: readonly Line[]): readonly [number, number] | undefined {
  return look.clip
    ? middleRange(
        lines.map(({ ys }) => ys),
        0.98,
      )
    : undefined;
}
