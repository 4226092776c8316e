// What every tab of a run's view is given.

import type { RunDetail, RunMetrics, RunSummary } from "../../api.ts";

export interface TabProps {
  readonly run: RunSummary;
  readonly detail: RunDetail;
  /** Absent until they are read. */
  readonly metrics: RunMetrics | undefined;
}
