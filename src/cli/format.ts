// Numbers as people read them, and tables of them. Pure functions; nothing here prints (terminal.ts does).

/** 1536 -> "1.54 kB"; decimal units, as device memory is sold and as --vram reads them. */
export function formatBytes(bytes: number): string {
  return withPrefix(bytes, ["B", "kB", "MB", "GB", "TB", "PB"], " ");
}

/** 19988480 -> "20.0M". */
export function formatCount(count: number): string {
  return withPrefix(count, ["", "k", "M", "B", "T"], "");
}

function withPrefix(value: number, units: readonly string[], separator: string): string {
  let scaled = value;
  let unit = 0;
  // 999.5 would print as 1000 of a unit; it is 1.00 of the next.
  while (Math.abs(scaled) >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit++;
  }
  const digits = unit === 0 ? String(Math.round(scaled * 100) / 100) : significant(scaled);
  return units[unit] === "" ? digits : `${digits}${separator}${units[unit]}`;
}

/** Three significant digits without an exponent. */
function significant(value: number): string {
  const magnitude = Math.abs(value);
  return value.toFixed(magnitude >= 99.95 ? 0 : magnitude >= 9.995 ? 1 : 2);
}

/** 4200 -> "4.2s"; 252000 -> "4m 12s"; 7380000 -> "2h 3m". */
export function formatDuration(elapsedMs: number): string {
  if (!Number.isFinite(elapsedMs)) return "unknown";
  if (elapsedMs < 950) return `${Math.round(elapsedMs)}ms`;
  if (elapsedMs < 9950) return `${(elapsedMs / 1000).toFixed(1)}s`;
  const seconds = Math.round(elapsedMs / 1000);
  if (seconds < 60) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}m ${seconds % 60}s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours}h ${minutes % 60}m` : `${Math.floor(hours / 24)}d ${hours % 24}h`;
}

/** A rate with as many digits as mean something: "312", "31.2", "3.12". */
export function formatRate(perSecond: number): string {
  return perSecond >= 999.5 ? String(Math.round(perSecond)) : significant(perSecond);
}

/** Four decimals for everyday losses, an exponent for extreme ones. */
export function formatLoss(loss: number): string {
  const magnitude = Math.abs(loss);
  return magnitude !== 0 && (magnitude < 1e-3 || magnitude >= 1e5) ? loss.toExponential(2) : loss.toFixed(4);
}

/** 0.754 as "75%". */
export function formatShare(share: number): string {
  return `${Math.round(100 * share)}%`;
}

/** Columns with a rule under the heading; a column whose cells are all numeric in look stands to the right. */
export function formatTable(heading: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = heading.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => (row[column] ?? "").length)),
  );
  const numeric = heading.map((_, column) =>
    rows.every((row) => /^([-+~<>]?\d|-?$)/.test(row[column] ?? "")),
  );
  const line = (cells: readonly string[]) =>
    widths
      .map((width, column) => {
        const cell = cells[column] ?? "";
        return numeric[column] ? cell.padStart(width) : cell.padEnd(width);
      })
      .join("  ")
      .trimEnd();
  return [line(heading), widths.map((width) => "-".repeat(width)).join("  "), ...rows.map(line)].join("\n");
}

/** A word as a POSIX shell must be given it. */
export function shellQuote(word: string): string {
  return /^[\w./:@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
