// Everything that the page asks of its server: one function a route, errors in the server's own words. The only file
// that reaches a network, and that is the server which the page came from. What is told unasked: event-stream.ts.

import type {
  CompareView,
  ErrorBody,
  FormOptions,
  LayersView,
  MachinePeak,
  MemoryView,
  PlanRequest,
  PlanView,
  RowsView,
  RunDetail,
  RunList,
  RunMetrics,
  RunSummary,
  SamplesRequest,
  SamplesView,
  ServerInfo,
  StartRequest,
} from "../api.ts";

/** What went wrong, for people; `field` is the option of a form that is at fault. */
export class CallError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly field?: string,
  ) {
    super(message);
  }
}

const keyStore = "lowrank-key";

/** "#key=KEY" of the address that the command prints: kept for this tab, and taken out of the address. */
export function takeKey(): void {
  const found = /^#\/?(?:\?)?key=([^&]+)/.exec(window.location.hash);
  if (!found) return;
  try {
    window.sessionStorage.setItem(keyStore, decodeURIComponent(found[1]!));
  } catch {
    // Without storage, or from a link that does not decode: the server asks for the key again.
  }
  window.history.replaceState(null, "", window.location.pathname + window.location.search);
}

function authorization(): Record<string, string> {
  let key: string | null = null;
  try {
    key = window.sessionStorage.getItem(keyStore);
  } catch {
    // See above.
  }
  return key === null ? {} : { authorization: `Bearer ${key}` };
}

export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(new URL(`api/${path}`, document.baseURI), {
      ...init,
      headers: { ...authorization(), ...(init.headers as Record<string, string>) },
    });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new CallError("The server does not answer. Is `lowrank ui` still running?", 0);
  }
  if (response.ok) return response;
  const body = (await response.json().catch(() => undefined)) as ErrorBody | undefined;
  const told = body?.error?.message;
  const words =
    response.status === 401 ? "The server asks for its key: open the address that `lowrank ui` printed." : "";
  throw new CallError(
    words || told || `The server answered ${response.status}.`,
    response.status,
    body?.error?.field,
  );
}

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await request(path, { signal })).json()) as T;
}

async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const headers = { "content-type": "application/json" };
  return (await (
    await request(path, { method: "POST", headers, body: JSON.stringify(body), signal })
  ).json()) as T;
}

const run = (id: string) => `runs/${encodeURIComponent(id)}`;

export const calls = {
  server: () => get<ServerInfo>("server"),
  runs: () => get<RunList>("runs"),
  start: (body: StartRequest) => post<RunSummary>("runs", body),
  detail: (id: string, signal?: AbortSignal) => get<RunDetail>(run(id), signal),
  metrics: (id: string, points: number, signal?: AbortSignal) =>
    get<RunMetrics>(`${run(id)}/metrics?points=${points}`, signal),
  steer: (id: string, verb: "pause" | "resume" | "end") => post<RunSummary>(`${run(id)}/${verb}`, {}),
  rows: (id: string, set: "train" | "eval", from: number, count: number, signal?: AbortSignal) =>
    get<RowsView>(`${run(id)}/rows?set=${set}&from=${from}&count=${count}`, signal),
  samples: (id: string, body: SamplesRequest, signal?: AbortSignal) =>
    post<SamplesView>(`${run(id)}/samples`, body, signal),
  layers: (id: string, step: string | undefined, signal?: AbortSignal) =>
    get<LayersView>(
      `${run(id)}/layers${step === undefined ? "" : `?step=${encodeURIComponent(step)}`}`,
      signal,
    ),
  memory: (id: string, signal?: AbortSignal) => get<MemoryView>(`${run(id)}/memory`, signal),
  compare: (id: string, signal?: AbortSignal) =>
    get<CompareView>(`compares/${encodeURIComponent(id)}`, signal),
  options: () => get<FormOptions>("options"),
  plan: (body: PlanRequest, signal?: AbortSignal) => post<PlanView>("plan", body, signal),
  peak: () => post<MachinePeak>("peak", {}),
};
