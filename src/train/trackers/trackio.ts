// trackio's server over HTTP (trackio 0.43, trackio/server.py): POST /api/bulk_log with a list of entries, each a step of
// a run with its metrics. An entry's log_id is unique in a project, and the server passes over one that it has, so
// sending a point again is harmless. The write token goes in a header. Samples are trackio's Markdown values.

import { UsageError } from "../../util/errors.ts";
import { type Address, addressOf, callJson } from "./http.ts";
import type { Point } from "./points.ts";
import type { TrackedRun, Tracker, TrackerKind } from "./tracker.ts";

export const trackio: TrackerKind = {
  create({ trackioUrl }, environment) {
    const given = trackioUrl ?? environment.TRACKIO_SERVER_URL;
    if (given === undefined)
      throw new UsageError(
        "--log trackio needs the address of trackio's server: --trackio-url http://HOST:PORT or TRACKIO_SERVER_URL (`trackio show` tells it).",
      );
    const address = addressOf(given, trackioUrl === undefined ? "TRACKIO_SERVER_URL" : "--trackio-url");
    const token = environment.TRACKIO_WRITE_TOKEN ?? address.query.get("write_token");
    if (!token)
      throw new UsageError(
        "--log trackio needs the server's write token in TRACKIO_WRITE_TOKEN (`trackio show` tells it).",
      );
    return new Trackio(address, token);
  },
};

class Trackio implements Tracker {
  readonly name = "trackio";
  readonly batchPoints = 500;
  private run: TrackedRun | undefined;

  constructor(
    private readonly address: Address,
    private readonly token: string,
  ) {}

  get place(): string {
    return this.address.shown;
  }

  async open(run: TrackedRun, signal: AbortSignal): Promise<undefined> {
    // The server knows a run by its entries; the question is whether anybody is there.
    await this.call("get_all_projects", {}, signal);
    this.run = run;
    return undefined;
  }

  async send(points: readonly Point[], signal: AbortSignal): Promise<void> {
    const { id, project, name, recipe, startedMs } = this.run!;
    const config = { ...recipe, _Created: new Date(startedMs).toISOString() };
    const logs = points.map(({ kind, step, values, text }, i) => ({
      ...{ project, run: name, run_id: id, step, log_id: `${id}:${kind}:${step}` },
      metrics: text ? { sample: markdown(text.prompt, text.text) } : values,
      config: i === 0 ? config : null,
    }));
    await this.call("bulk_log", { logs, hf_token: null }, signal);
  }

  async close(): Promise<void> {}

  private async call(name: string, body: unknown, signal: AbortSignal): Promise<void> {
    const headers = { "x-trackio-write-token": this.token };
    await callJson(`${this.address.base}api/${name}`, { headers, body, signal });
  }
}

function markdown(prompt: string, text: string): unknown {
  return { _type: "trackio.markdown", _value: `**${prompt}**\n\n${text}` };
}
