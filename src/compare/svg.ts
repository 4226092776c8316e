// Two small plots as SVG text: curves over steps, and labelled points. Scales, ticks and colours of our own; no
// dependency and no script in the file. What is plotted: report.ts.

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [number, number])[];
}

export interface PlotText {
  readonly title: string;
  readonly x: string;
  readonly y: string;
}

const width = 720;
const height = 420;
const margin = { left: 76, right: 150, top: 44, bottom: 56 };
/** Okabe and Ito's colours, which colour-blind readers can tell apart. */
const colors = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"];

/** One curve a series, with its name at the right. */
export function curvesSvg(series: readonly Series[], text: PlotText): string {
  const all = series.flatMap(({ points }) => points);
  const frame = frameOf(all, false);
  const paths = series.map(({ name, points }, i) => {
    const color = colors[i % colors.length]!;
    const path = points.map(([x, y], k) => `${k === 0 ? "M" : "L"}${frame.x(x)} ${frame.y(y)}`).join("");
    const at = margin.top + 14 + 18 * i;
    const right = width - margin.right + 14;
    return [
      `<path d="${path}" fill="none" stroke="${color}" stroke-width="1.6"/>`,
      `<line x1="${right}" y1="${at - 4}" x2="${right + 18}" y2="${at - 4}" stroke="${color}" stroke-width="3"/>`,
      `<text x="${right + 24}" y="${at}">${escapeXml(name)}</text>`,
    ].join("\n");
  });
  return document(frame, text, paths);
}

export interface PlotPoint {
  readonly name: string;
  readonly x: number;
  readonly y: number;
  /** Ends of a vertical interval. */
  readonly low?: number;
  readonly high?: number;
}

/** One labelled point each, with its interval as a bar; x on a logarithmic scale. */
export function pointsSvg(points: readonly PlotPoint[], text: PlotText): string {
  const all = points.flatMap(({ x, y, low, high }) =>
    [y, low, high].filter((value) => value !== undefined).map((value): [number, number] => [x, value]),
  );
  const frame = frameOf(all, true);
  const shapes = points.map(({ name, x, y, low, high }, i) => {
    const color = colors[i % colors.length]!;
    const [cx, cy] = [frame.x(x), frame.y(y)];
    const bar =
      low === undefined || high === undefined
        ? ""
        : `<line x1="${cx}" y1="${frame.y(low)}" x2="${cx}" y2="${frame.y(high)}" stroke="${color}" stroke-width="1.4"/>`;
    return `${bar}<circle cx="${cx}" cy="${cy}" r="5" fill="${color}"/><text x="${cx + 9}" y="${cy - 6}">${escapeXml(name)}</text>`;
  });
  return document(frame, text, shapes);
}

interface Frame {
  x(value: number): number;
  y(value: number): number;
  readonly xTicks: readonly number[];
  readonly yTicks: readonly number[];
}

function frameOf(points: readonly (readonly [number, number])[], logX: boolean): Frame {
  const finite = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
  const xs = finite.map(([x]) => x);
  const ys = finite.map(([, y]) => y);
  const yTicks = ticks(least(ys), most(ys));
  const [bottom, top] = [Math.min(yTicks[0]!, least(ys)), Math.max(yTicks.at(-1)!, most(ys))];
  const decades = logX ? logTicks(least(xs), most(xs)) : [];
  const xTicks = decades.length >= 3 ? decades : ticks(least(xs), most(xs));
  const [left, right] = logX
    ? [least(xs) / 1.15, most(xs) * 1.15]
    : [Math.min(xTicks[0]!, least(xs)), most(xs)];
  const scaleX = logX ? Math.log : (value: number) => value;
  const [from, to] = [scaleX(left), scaleX(right)];
  const round = (value: number) => Math.round(value * 10) / 10;
  return {
    x: (value) =>
      round(margin.left + ((scaleX(value) - from) / (to - from || 1)) * (width - margin.left - margin.right)),
    y: (value) =>
      round(
        height -
          margin.bottom -
          ((value - bottom) / (top - bottom || 1)) * (height - margin.top - margin.bottom),
      ),
    xTicks: xTicks.filter((tick) => tick >= left && tick <= right),
    yTicks,
  };
}

function least(values: readonly number[]): number {
  return values.reduce((a, b) => Math.min(a, b), values[0] ?? 0);
}

function most(values: readonly number[]): number {
  return values.reduce((a, b) => Math.max(a, b), values[0] ?? 1);
}

/** About five round numbers that span the range. */
function ticks(low: number, high: number): number[] {
  if (!(high > low)) return [low];
  const raw = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw)!;
  const found: number[] = [];
  for (let k = Math.floor(low / step); k <= Math.ceil(high / step); k++) found.push(k * step);
  return found;
}

function logTicks(low: number, high: number): number[] {
  const found: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const n of [1, 2, 5]) found.push(n * 10 ** power);
  return found.filter((tick) => tick >= low / 1.15 && tick <= high * 1.15);
}

function document(frame: Frame, { title, x, y }: PlotText, shapes: readonly string[]): string {
  const right = width - margin.right;
  const bottom = height - margin.bottom;
  const grid = [
    ...frame.yTicks.map((tick) => {
      const at = frame.y(tick);
      return `<line x1="${margin.left}" y1="${at}" x2="${right}" y2="${at}" stroke="#ddd"/><text x="${margin.left - 8}" y="${at + 4}" text-anchor="end">${number(tick)}</text>`;
    }),
    ...frame.xTicks.map((tick) => {
      const at = frame.x(tick);
      return `<line x1="${at}" y1="${bottom}" x2="${at}" y2="${bottom + 5}" stroke="#888"/><text x="${at}" y="${bottom + 20}" text-anchor="middle">${number(tick)}</text>`;
    }),
  ];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12" fill="#222">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    `<text x="${margin.left}" y="24" font-size="15" font-weight="bold">${escapeXml(title)}</text>`,
    ...grid,
    `<path d="M${margin.left} ${margin.top}V${bottom}H${right}" fill="none" stroke="#888"/>`,
    `<text x="${(margin.left + right) / 2}" y="${height - 12}" text-anchor="middle">${escapeXml(x)}</text>`,
    `<text transform="translate(18 ${(margin.top + bottom) / 2}) rotate(-90)" text-anchor="middle">${escapeXml(y)}</text>`,
    ...shapes,
    "</svg>",
    "",
  ].join("\n");
}

function number(value: number): string {
  const rounded = Number(value.toPrecision(6));
  if (Math.abs(rounded) >= 1000) return rounded.toLocaleString("en-US");
  return String(rounded);
}

function escapeXml(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);
}
