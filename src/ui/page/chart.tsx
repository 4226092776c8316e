// A chart as readers meet it: title, values at the cursor, the plot, and for those who do not see it or want numbers a
// sentence and a table. Arrow keys move the cursor. Drawing itself: plot.ts.

import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import { short, withError } from "./numbers.ts";
import { Scroll } from "./parts.tsx";
import { type Line, makePlot, type Plot, shapeOf } from "./plot.ts";
import { extremesOf } from "./smooth.ts";
import { theme } from "./theme.ts";

export interface ChartProps {
  readonly title: string;
  readonly lines: readonly Line[];
  readonly xLabel: string;
  readonly yLabel: string;
  readonly log?: boolean;
  readonly logX?: boolean;
  readonly zero?: boolean;
  readonly height?: number;
  readonly range?: readonly [number, number];
  readonly xValue?: (x: number) => string;
  readonly yValue?: (y: number) => string;
  /** Shown in place of the plot where no line has a point. */
  readonly empty?: string;
  /** Said under the title. */
  readonly note?: string;
  readonly legend?: boolean;
}

const tableRows = 60;
const mostNamed = 8;

export function Chart(props: ChartProps) {
  const { title, lines, xLabel, yLabel, log = false, logX = false, zero = false, height = 230 } = props;
  const { xValue = short, yValue = short } = props;
  const host = useRef<HTMLDivElement>(null);
  const [shown, setShown] = useState<Plot>();
  const [cursor, setCursor] = useState<number>();
  const [zoomed, setZoomed] = useState(false);
  const [focus, setFocus] = useState<number>();
  const [tableOpen, setTableOpen] = useState(false);
  const id = useId();
  const filled = lines.filter(({ ys }) => ys.some((y) => y !== null && Number.isFinite(y)));
  const empty = filled.length === 0;
  const range = props.range;
  // More names than a legend holds: the line by the pointer is told by itself.
  const many = lines.length > mostNamed;
  const shape = `${shapeOf(lines)}|${log}|${logX}|${zero}|${height}|${xLabel}|${yLabel}|${range?.join()}|${many}`;

  // A new plot only where lines or axes are others; numbers alone flow into the one that is there.
  useEffect(() => {
    if (!host.current || empty) return;
    const made = makePlot(host.current, lines, {
      ...{ log, logX, zero, height, xLabel, yLabel, xValue, yValue, range },
      onCursor: setCursor,
      onZoom: setZoomed,
      ...(many && { onFocus: setFocus }),
    });
    setShown(made);
    return () => {
      setShown(undefined);
      made.destroy();
      setCursor(undefined);
      setFocus(undefined);
      setZoomed(false);
    };
  }, [shape, empty]);
  useEffect(() => shown?.setLines(lines), [lines]);
  const drawnIn = theme.value;
  useEffect(() => shown?.redraw(), [drawnIn]);

  const summary = useMemo(
    () => (empty ? "" : describe(filled, { title, xLabel, xValue, yValue })),
    [lines, title, empty],
  );
  const at = cursor !== undefined && shown && cursor < shown.xs.length ? cursor : undefined;
  const readout = filled.filter(({ look }) => look !== "faint" || filled.length === 1);

  // One line needs no name beside its title.
  const alone = readout.length === 1 && props.legend !== false ? readout[0] : undefined;
  const focused = many && focus !== undefined ? lines[focus] : undefined;

  const onKeyDown = (event: KeyboardEvent) => {
    if (!shown || shown.xs.length === 0) return;
    const last = shown.xs.length - 1;
    const page = Math.max(1, Math.round(last / 20));
    const from = at ?? last;
    const moves: Record<string, number | undefined> = {
      ArrowLeft: from - 1,
      ArrowRight: from + 1,
      PageDown: from - page,
      PageUp: from + page,
      Home: 0,
      End: last,
    };
    if (event.key === "Escape") {
      shown.setCursor(undefined);
      if (many) shown.setFocus(undefined);
      if (zoomed) shown.resetZoom();
      return;
    }
    const turn = Number(event.key === "ArrowDown") - Number(event.key === "ArrowUp");
    if (many && turn !== 0) {
      event.preventDefault();
      const count = lines.length;
      shown.setFocus(focus === undefined ? 0 : (focus + turn + count) % count);
      return;
    }
    const to = moves[event.key];
    if (to === undefined) return;
    event.preventDefault();
    shown.setCursor(Math.min(last, Math.max(0, to)));
  };

  const textAt = (line: Line): string => {
    const index = lines.indexOf(line);
    const column = shown?.columns[index];
    if (at === undefined || !column) return yValue(lastOf(line.ys) ?? Number.NaN);
    // Of evaluations the last one before the cursor counts.
    let found = at;
    while (found > 0 && line.look === "points" && (column[found] ?? null) === null) found--;
    const value = column[found];
    if (value === null || value === undefined) return "";
    const error = line.errors?.[line.xs.indexOf(shown!.xs[found]!)];
    return error && !props.yValue ? withError(value, error) : yValue(value);
  };

  return (
    <figure class="card chart" aria-labelledby={`${id}-title`}>
      <figcaption class="chart-head">
        <h3 id={`${id}-title`}>{title}</h3>
        {zoomed && (
          <button type="button" class="small quiet no-print" onClick={() => shown?.resetZoom()}>
            Whole range
          </button>
        )}
        {!empty && (
          <span class="at num">
            {at !== undefined && <span class="muted">{`${xLabel} ${xValue(shown!.xs[at]!)}`}</span>}
            {alone && <b>{textAt(alone)}</b>}
            {focused && (
              <>
                <Swatch line={focused} /> <span>{focused.label}</span> <b>{textAt(focused)}</b>
              </>
            )}
          </span>
        )}
      </figcaption>
      {props.note && <p class="note">{props.note}</p>}
      {!empty && !alone && !many && props.legend !== false && (
        <ul class="legend">
          {readout.map((line) => (
            <li key={line.label}>
              <Swatch line={line} />
              <span class="name">{line.label}</span>
              <span class="num value">{textAt(line)}</span>
            </li>
          ))}
        </ul>
      )}
      {empty ? (
        <p class="empty">{props.empty ?? "Nothing yet."}</p>
      ) : (
        <>
          <div
            class="plot"
            data-lines={filled.length}
            role="slider"
            tabIndex={0}
            aria-label={`${title}: values along ${xLabel}`}
            aria-describedby={`${id}-summary`}
            aria-orientation="horizontal"
            aria-valuemin={0}
            aria-valuemax={Math.max(0, (shown?.xs.length ?? 1) - 1)}
            aria-valuenow={at ?? Math.max(0, (shown?.xs.length ?? 1) - 1)}
            aria-valuetext={`${at === undefined ? "last" : `${xLabel} ${xValue(shown!.xs[at]!)}`}: ${(focused
              ? [focused]
              : readout
            )
              .slice(0, mostNamed)
              .map((line) => [line.label, textAt(line)] as const)
              .flatMap(([label, text]) => (text === "" ? [] : [`${label} ${text}`]))
              .join(", ")}`}
            onKeyDown={onKeyDown}
            ref={host}
            style={{ height: `${height}px` }}
          />
          <p class="hidden" id={`${id}-summary`}>
            {summary}
          </p>
          <details class="numbers" onToggle={(event) => setTableOpen(event.currentTarget.open)}>
            <summary>Numbers</summary>
            {tableOpen && <NumbersTable {...{ lines: filled, title, xLabel, xValue, yValue }} />}
          </details>
        </>
      )}
    </figure>
  );
}

/** A line's mark, colored by the style sheet so that it follows the theme by itself. */
export function Swatch({ line }: { line: Pick<Line, "color" | "look"> }) {
  const broken = line.look === "level" || line.color >= 8;
  return (
    <svg class="swatch" width="16" height="8" viewBox="0 0 16 8" aria-hidden="true">
      {line.look === "points" ? (
        <circle cx="8" cy="4" r="3.5" fill={`var(--series-${(line.color % 8) + 1})`} />
      ) : (
        <line
          x1="0"
          y1="4"
          x2="16"
          y2="4"
          stroke={`var(--series-${(line.color % 8) + 1})`}
          stroke-width="3"
          stroke-dasharray={broken ? "4 2" : undefined}
        />
      )}
    </svg>
  );
}

interface Words {
  readonly title: string;
  readonly xLabel: string;
  readonly xValue: (x: number) => string;
  readonly yValue: (y: number) => string;
}

function describe(lines: readonly Line[], { title, xLabel, xValue, yValue }: Words): string {
  const parts = lines
    .filter(({ look }) => look !== "faint" || lines.length === 1)
    .slice(0, 12)
    .map((line) => {
      const found = extremesOf(line.xs, line.ys);
      if (!found) return `${line.label}: no values.`;
      const { first, last, low, high } = found;
      if (found.count === 1 || line.look === "level") return `${line.label}: ${yValue(last.y)}.`;
      const at = ({ x, y }: { x: number; y: number }) => `${yValue(y)} at ${xLabel} ${xValue(x)}`;
      return `${line.label}: from ${at(first)} to ${at(last)}; lowest ${at(low)}, highest ${at(high)}.`;
    });
  return `${title}. ${parts.join(" ")}`;
}

function lastOf(ys: readonly (number | null)[]): number | undefined {
  return ys.findLast((y): y is number => y !== null && Number.isFinite(y));
}

function NumbersTable({ lines, title, xLabel, xValue, yValue }: Words & { lines: readonly Line[] }) {
  const columns = lines.filter(({ look }) => look !== "level").slice(0, 20);
  const places = [...new Set(columns.flatMap(({ xs }) => xs as number[]))].sort((a, b) => a - b);
  const stride = Math.max(1, Math.ceil(places.length / tableRows));
  // Few points are told whole: evaluations would fall through a grid of steps.
  const few = new Set(columns.filter(({ xs }) => xs.length <= tableRows).flatMap(({ xs }) => xs as number[]));
  const chosen = places.filter((x, i) => i % stride === 0 || i === places.length - 1 || few.has(x));
  const byPlace = columns.map(({ xs, ys }) => new Map(xs.map((x, i) => [x, ys[i]])));
  return (
    // A scrolling region has to be reachable by keyboard.
    <Scroll label={`${title}, as a table`}>
      <table>
        <thead>
          <tr>
            <th scope="col">{xLabel}</th>
            {columns.map(({ label }) => (
              <th scope="col" key={label}>
                {label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {chosen.map((x) => (
            <tr key={x}>
              <th scope="row" class="num">
                {xValue(x)}
              </th>
              {byPlace.map((values, i) => {
                const y = values.get(x);
                return (
                  <td key={columns[i]!.label} class="num">
                    {y === null || y === undefined ? "" : yValue(y)}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
      {stride > 1 && (
        <p class="muted">
          Every {stride}th of {places.length.toLocaleString("en-US")} points.
        </p>
      )}
    </Scroll>
  );
}
