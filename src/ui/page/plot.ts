// One uPlot on the page: lines, single points with their errors, a level to hold against; keeps the reader's zoom while
// data comes in, and follows size and theme. What surrounds it (title, readout, table, keys) is chart.tsx's.

import uPlot from "uplot";
import { short } from "./numbers.ts";
import { cssColor, seriesStyle } from "./theme.ts";

export interface Line {
  readonly label: string;
  readonly xs: readonly number[];
  readonly ys: readonly (number | null)[];
  /** Which of the series' colors. */
  readonly color: number;
  /** "faint": behind its smoothed line. "points": few, joined thinly. "bars": from zero, of a histogram. */
  readonly look?: "faint" | "points" | "level" | "step";
  /** Standard errors of points, drawn as bars of twice that. */
  readonly errors?: readonly (number | null)[];
}

export interface PlotOptions {
  readonly log: boolean;
  readonly logX?: boolean;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly height: number;
  /** The y axis begins at zero. */
  readonly zero?: boolean;
  readonly range?: readonly [number, number];
  readonly xValue?: (x: number) => string;
  readonly yValue?: (y: number) => string;
  onCursor(index: number | undefined): void;
  /** Of many lines, the one by the pointer, which the others step back from. */
  onFocus?(line: number | undefined): void;
  onZoom(zoomed: boolean): void;
}

export interface Plot {
  readonly xs: readonly number[];
  /** Aligned with xs, one list a line. */
  readonly columns: readonly (readonly (number | null | undefined)[])[];
  setLines(lines: readonly Line[]): void;
  /** Undefined puts it away. */
  setCursor(index: number | undefined): void;
  /** One line before the others; undefined for all alike. */
  setFocus(line: number | undefined): void;
  resetZoom(): void;
  redraw(): void;
  destroy(): void;
}

/** What makes a new plot necessary; numbers alone do not. */
export function shapeOf(lines: readonly Line[]): string {
  return JSON.stringify(lines.map(({ label, color, look, errors }) => [label, color, look, !!errors]));
}

const font = '11px system-ui, "Segoe UI", Roboto, sans-serif';

export function makePlot(host: HTMLElement, first: readonly Line[], options: PlotOptions): Plot {
  let lines = first;
  let data = align(lines, options.log);
  let following = false;
  // A view may still hold what it has just put away.
  let gone = false;
  let focusing = false;
  const colors = () => ({ text: cssColor("--muted"), grid: cssColor("--grid"), line: cssColor("--line") });
  let now = colors();
  const width = () => Math.max(160, host.clientWidth);

  const axis = (label: string, show?: (value: number) => string): uPlot.Axis => ({
    stroke: () => now.text,
    grid: { stroke: () => now.grid, width: 1 },
    ticks: { stroke: () => now.line, width: 1, size: 4 },
    font,
    labelFont: font,
    label,
    labelSize: 14,
    labelGap: 0,
    gap: 4,
    values: (_, splits) => splits.map((split) => (split === null ? "" : (show ?? short)(split))),
  });

  const plot = new uPlot(
    {
      width: width(),
      height: options.height,
      // The last label stands halfway beyond the axis.
      padding: [8, () => Math.max(18, 3.5 * (options.xValue ?? short)(data[0].at(-1) ?? 0).length), 0, 0],
      legend: { show: false },
      cursor: {
        points: { size: 7, width: 1.5 },
        drag: { x: true, y: false, setScale: true },
        y: false,
        ...(options.onFocus && { focus: { prox: 60 } }),
      },
      ...(options.onFocus && { focus: { alpha: 0.2 } }),
      scales: {
        x: {
          time: false,
          ...(options.logX && { distr: 3 }),
          ...(first.every(({ look }) => look === "points") && {
            range: (_, low, high) => airy(low, high, options.logX),
          }),
        },
        y: {
          ...(options.log && { distr: 3 }),
          range: (u, low, high) => yRange(u, ...withErrors(low, high, lines), options),
        },
      },
      axes: [
        {
          ...axis(options.xLabel, options.xValue),
          ...{ size: 26, space: 56 },
          // There is no half of a step.
          ...(!options.logX && data[0].every(Number.isInteger) && { incrs: wholeIncrements }),
        },
        { ...axis(options.yLabel, options.yValue), size: (_, values) => widthOf(values) },
      ],
      series: [{}, ...lines.map((line) => seriesOf(line))],
      hooks: {
        draw: [(u) => drawErrors(u, lines, data)],
        setCursor: [
          (u) => {
            if (!following) options.onCursor(u.cursor.idx ?? undefined);
          },
        ],
        setSeries: [
          (_, series) => {
            if (!focusing) options.onFocus?.(series === null || series < 1 ? undefined : series - 1);
          },
        ],
        setScale: [(u, name) => name === "x" && options.onZoom(isZoomed(u))],
      },
    },
    data,
    host,
  );

  // Of its own width only: what it does to its height is no reason to draw again.
  const observer = new ResizeObserver(() => {
    if (Math.abs(plot.width - width()) > 1) plot.setSize({ width: width(), height: options.height });
  });
  observer.observe(host);

  return {
    get xs() {
      return data[0] as number[];
    },
    get columns() {
      return data.slice(1) as (number | null | undefined)[][];
    },
    setLines(next) {
      if (gone || next === lines) return;
      const zoomed = isZoomed(plot);
      const { min, max } = plot.scales.x!;
      lines = next;
      data = align(lines, options.log);
      plot.setData(data, !zoomed);
      if (zoomed) plot.setScale("x", { min: min!, max: max! });
    },
    setCursor(index) {
      if (gone) return;
      following = true;
      if (index === undefined) plot.setCursor({ left: -10, top: -10 });
      else plot.setCursor({ left: plot.valToPos(data[0][index]!, "x"), top: plot.height / 3 });
      following = false;
      options.onCursor(index);
    },
    setFocus(line) {
      if (gone) return;
      focusing = true;
      plot.setSeries(line === undefined ? null : line + 1, { focus: true });
      focusing = false;
      options.onFocus?.(line);
    },
    resetZoom() {
      if (gone) return;
      plot.setData(data, true);
    },
    redraw() {
      if (gone) return;
      now = colors();
      for (const [i, line] of lines.entries()) {
        const series = plot.series[i + 1]!;
        Object.assign(series, strokeOf(line));
        const { color } = seriesStyle(line.color);
        Object.assign(series.points!, { stroke: () => color, fill: () => color });
      }
      plot.redraw(false, true);
    },
    destroy() {
      gone = true;
      observer.disconnect();
      plot.destroy();
    },
  };
}

const wholeIncrements = Array.from({ length: 12 }, (_, power) =>
  [1, 2, 5].map((one) => one * 10 ** power),
).flat();

function strokeOf(line: Line): Partial<uPlot.Series> {
  const { color, dash } = seriesStyle(line.color);
  return {
    // uPlot keeps what a series was made with behind functions.
    stroke: (() => color) as never,
    ...(line.look === "level" ? { dash: [5, 5] } : dash && { dash }),
  };
}

function seriesOf(line: Line): uPlot.Series {
  const look = line.look;
  const { color, dash } = seriesStyle(line.color);
  const points = look === "points";
  return {
    label: line.label,
    stroke: color,
    ...(look === "level" ? { dash: [5, 5] } : dash && { dash }),
    width: look === "faint" ? 1 : look === "level" ? 1.25 : points ? 1.25 : 1.75,
    alpha: look === "faint" ? 0.28 : 1,
    spanGaps: true,
    points: points ? { show: true, size: 7, fill: color } : { show: line.xs.length === 1, size: 7 },
    ...(look === "step" && uPlot.paths.stepped && { paths: uPlot.paths.stepped({ align: 1 }) }),
  };
}

/** Points stand off the axes. */
function airy(low: number, high: number, log: boolean | undefined): [number, number] {
  if (log) {
    const air = (high / low || 1) ** 0.05 * 1.02;
    return [low / air, high * air];
  }
  const air = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - air, high + air];
}

/** The range that holds the bars of errors too. */
function withErrors(
  low: number | null,
  high: number | null,
  lines: readonly Line[],
): [number | null, number | null] {
  if (low === null || high === null) return [low, high];
  for (const { ys, errors } of lines)
    for (const [i, error] of errors?.entries() ?? []) {
      const y = ys[i];
      if (error === null || y === null || y === undefined) continue;
      low = Math.min(low, y - 2 * error);
      high = Math.max(high, y + 2 * error);
    }
  return [low, high];
}

/** Lines over one list of places: the union of theirs. */
function align(given: readonly Line[], log: boolean): uPlot.AlignedData {
  if (given.length === 0) return [[]];
  // A logarithmic axis has no place for 0 and below.
  const lines = log
    ? given.map((line) => ({ ...line, ys: line.ys.map((y) => (y !== null && y > 0 ? y : null)) }))
    : given;
  const [head] = lines;
  if (lines.every(({ xs }) => isSame(xs, head!.xs)))
    return [head!.xs as number[], ...lines.map(({ ys }) => ys as number[])];
  return uPlot.join(lines.map(({ xs, ys }) => [xs as number[], ys as number[]]));
}

function isSame(one: readonly number[], other: readonly number[]): boolean {
  return one === other || (one.length === other.length && one.every((x, i) => x === other[i]));
}

function yRange(u: uPlot, low: number | null, high: number | null, options: PlotOptions): [number, number] {
  if (options.range && !isZoomed(u)) {
    const [from, to] = options.range;
    if (!options.log || from > 0) return [from, to];
  }
  if (low === null || high === null) return options.log ? [0.1, 1] : [0, 1];
  if (options.log) {
    if (low <= 0) low = high > 0 ? high / 1e4 : 0.1;
    return [low * 0.93, high * 1.07 || 1];
  }
  const air = (high - low || Math.abs(high) || 1) * 0.06;
  const from = options.zero ? Math.min(0, low) : low - air;
  return [from, high + air];
}

function isZoomed(u: uPlot): boolean {
  const xs = u.data[0];
  const { min, max } = u.scales.x!;
  if (xs.length < 2 || min === undefined || max === undefined || min === null || max === null) return false;
  return min > xs[0]! || max < xs.at(-1)!;
}

function widthOf(values: readonly string[] | null): number {
  const longest = Math.max(3, ...(values ?? []).map((value) => value.length));
  return Math.min(74, 14 + 6.4 * longest);
}

/** Twice the standard error about each point, as a bar with feet. */
function drawErrors(u: uPlot, lines: readonly Line[], data: uPlot.AlignedData): void {
  const { ctx } = u;
  const ratio = window.devicePixelRatio || 1;
  for (const [i, line] of lines.entries()) {
    if (!line.errors) continue;
    const errorAt = new Map(line.xs.map((x, at) => [x, line.errors![at]]));
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    ctx.beginPath();
    ctx.strokeStyle = seriesStyle(line.color).color;
    ctx.lineWidth = 1.25 * ratio;
    for (const [at, x] of data[0].entries()) {
      const error = errorAt.get(x);
      const y = data[i + 1]?.[at];
      if (error === null || error === undefined || y === null || y === undefined) continue;
      const left = u.valToPos(x, "x", true);
      const top = u.valToPos(y + 2 * error, "y", true);
      const low = y - 2 * error;
      const logScale = u.scales.y!.distr === 3;
      const bottom = logScale && low <= 0 ? u.bbox.top + u.bbox.height : u.valToPos(low, "y", true);
      const foot = 3 * ratio;
      ctx.moveTo(left, top);
      ctx.lineTo(left, bottom);
      for (const end of [top, bottom]) {
        ctx.moveTo(left - foot, end);
        ctx.lineTo(left + foot, end);
      }
    }
    ctx.stroke();
    ctx.restore();
  }
}
