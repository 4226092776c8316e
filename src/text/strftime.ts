// strftime_now() of chat templates: dates in English whatever the machine's locale, as Python's C locale prints
// them, and from a date that the caller chooses. Only the directives that templates use; others stay as written.

const MONTHS = "January February March April May June July August September October November December".split(
  " ",
);
const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

const two = (n: number) => String(n).padStart(2, "0");

const directives: Record<string, (date: Date) => string> = {
  Y: (d) => String(d.getFullYear()),
  y: (d) => two(d.getFullYear() % 100),
  m: (d) => two(d.getMonth() + 1),
  d: (d) => two(d.getDate()),
  e: (d) => String(d.getDate()).padStart(2, " "),
  B: (d) => MONTHS[d.getMonth()]!,
  b: (d) => MONTHS[d.getMonth()]!.slice(0, 3),
  A: (d) => DAYS[d.getDay()]!,
  a: (d) => DAYS[d.getDay()]!.slice(0, 3),
  H: (d) => two(d.getHours()),
  I: (d) => two(d.getHours() % 12 || 12),
  p: (d) => (d.getHours() < 12 ? "AM" : "PM"),
  M: (d) => two(d.getMinutes()),
  S: (d) => two(d.getSeconds()),
  "%": () => "%",
};

/** Formats local time. */
export function strftime(date: Date, format: string): string {
  return format.replace(/%(.)/g, (written, letter: string) => directives[letter]?.(date) ?? written);
}
