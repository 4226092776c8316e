// Where a run's numbers go besides metrics.jsonl: the names of trackers, and the options that say which run of which
// server they are. Keys are no options: they come from the environment alone, so that no recipe holds one. Not here:
// the trackers (train/trackers/).

import { UsageError } from "../util/errors.ts";
import { choices, text } from "./define.ts";

/** "jsonl" is metrics.jsonl, which every run writes. */
export const trackerNames = ["jsonl", "tensorboard", "trackio", "mlflow"] as const;
export type TrackerName = Exclude<(typeof trackerNames)[number], "jsonl">;

export const trackerFields = {
  log: choices(trackerNames, "trackers to log to, besides metrics.jsonl; repeatable"),
  logProject: text("project (trackio) or experiment (MLflow) that the run belongs to", {
    placeholder: "NAME",
    defaultText: "lowrank, or what MLFLOW_EXPERIMENT_NAME says",
  }),
  logRun: text("name of the run in trackers", { placeholder: "NAME", defaultText: "that of --out's folder" }),
  trackioUrl: text("address of trackio's server; its write token is TRACKIO_WRITE_TOKEN's", {
    placeholder: "URL",
    defaultText: "TRACKIO_SERVER_URL",
  }),
  mlflowUri: text(
    "address of MLflow's server; keys are MLFLOW_TRACKING_TOKEN's or _USERNAME's and _PASSWORD's",
    {
      placeholder: "URL",
      defaultText: "MLFLOW_TRACKING_URI",
    },
  ),
};

/** An address that a run's record will hold must hold no key. The message does not repeat it. */
export function refuseKeysInAddresses(values: {
  readonly trackioUrl?: string;
  readonly mlflowUri?: string;
}): void {
  for (const [flag, address, instead] of [
    ["--trackio-url", values.trackioUrl, "TRACKIO_WRITE_TOKEN"],
    ["--mlflow-uri", values.mlflowUri, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"],
  ] as const) {
    if (address === undefined || !/@|[?&#]/.test(address)) continue;
    throw new UsageError(
      `${flag}: expected an address without a user, a password or a token, which run.json would keep; give them in ${instead}.`,
    );
  }
}
