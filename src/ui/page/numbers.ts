// How the page writes numbers: few digits, units said, one way everywhere. Not here: what the numbers are.

const units = ["B", "kB", "MB", "GB", "TB"] as const;

/** Four significant digits; tiny and huge ones as 2e-4 and 1.2M. */
export function short(value: number | null | undefined): string {
  if (value === undefined || value === null) return "–";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "not a number" : value > 0 ? "∞" : "-∞";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  if (size >= 1e9) return `${trim(value / 1e9)}B`;
  if (size >= 1e6) return `${trim(value / 1e6)}M`;
  if (size >= 1e4) return Math.round(value).toLocaleString("en-US");
  return trim(value);
}

function trim(value: number): string {
  return String(Number(value.toPrecision(4)));
}

export function count(value: number | undefined): string {
  return value === undefined ? "–" : value.toLocaleString("en-US");
}

/** Powers of ten, as the command line has them. */
export function bytes(value: number | undefined): string {
  if (value === undefined) return "–";
  let size = value;
  let unit = 0;
  while (Math.abs(size) >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit++;
  }
  return `${unit === 0 ? size : Number(size.toPrecision(3))} ${units[unit]}`;
}

/** 42 s, 3 min 20 s, 2 h 5 min. */
export function duration(ms: number | undefined): string {
  if (ms === undefined || !Number.isFinite(ms)) return "–";
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole % 60 === 0 ? `${minutes} min` : `${minutes} min ${whole % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} days ${hours % 24} h`;
}

export function percent(share: number | undefined, digits = 0): string {
  return share === undefined || !Number.isFinite(share) ? "–" : `${(100 * share).toFixed(digits)}%`;
}

/** "1.234 ± 0.056": an error has two digits, and the value no more places than it. */
export function withError(value: number | null | undefined, error: number | null | undefined): string {
  const known = typeof error === "number" && error > 0 && Number.isFinite(error);
  if (value === null || value === undefined || !known) return short(value);
  const places = Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(error))));
  return `${value.toFixed(places)} ± ${error.toFixed(places)}`;
}

/** Local date and time, short; today's without the date. */
export function moment(ms: number | undefined): string {
  if (ms === undefined) return "–";
  const date = new Date(ms);
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.toLocaleDateString("en-CA")} ${time}`;
}
