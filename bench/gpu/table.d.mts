export interface TableRow {
  readonly what: string;
  readonly ours: string | number;
  readonly theirs: string;
  readonly wanted: string;
  readonly holds: string;
}
/** Problems first, and rows, of the lines of a run. */
export function tableOf(lines: readonly object[]): { problems: string[]; rows: TableRow[] };
