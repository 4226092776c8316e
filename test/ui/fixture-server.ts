// A server with the routes of `lowrank ui` and made-up runs behind them, always the same, so that what the page makes of
// every route can be looked at: long runs, hostile texts, every state. Not here: the real one (page.test.ts starts it).

import { readFileSync } from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import type {
  CompareView,
  FormOptions,
  LayersView,
  MemoryView,
  PlanView,
  RowsView,
  RunDetail,
  RunList,
  RunMetrics,
  RunState,
  RunSummary,
  SamplesView,
  ServerInfo,
} from "../../src/ui/api.ts";

/** Text that a page which trusted it would run. */
export const hostile =
  "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>";

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
};
const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'";
const gigaFlops = 1e9;
const now = Date.now();

/** Numbers between 0 and 1 that are the same on every run. */
function noise(seed: number): () => number {
  let state = seed * 2654435761 + 12345;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const states: readonly RunState[] = ["running", "done", "paused", "failed", "stopped", "done"];
const names = ["stories-r16", "stories-r8", "sweep/lr-5e-4", "sweep/lr-5e-3", hostile, "full"];

function summaryOf(i: number): RunSummary {
  const state = states[i]!;
  const step = state === "done" ? 900 : 300 + 97 * i;
  const live = state === "running";
  return {
    id: names[i]!,
    state,
    step,
    totalSteps: 900,
    model: "models/SmolLM-135M",
    method: i === 5 ? "full" : i === 2 ? "qlora" : "lora",
    adapter: "lora",
    rank: i === 0 ? 16 : 8,
    objective: "sft",
    learningRate: 1e-3,
    firstLoss: 3.41,
    loss: lossAt(step, i),
    evalLoss: lossAt(step, i) + 0.05,
    tokensPerSecond: 612,
    elapsedMs: step * 410,
    changedMs: now - i * 3_600_000,
    ...(state === "failed" && { error: "Loss is not finite at step 591: rows.jsonl lines 11, 12." }),
    can: { pause: live, resume: state === "paused" || state === "stopped", end: live || state === "paused" },
  };
}

function lossAt(step: number, i: number): number {
  return (0.55 + 0.12 * i) * (1 + 3 * Math.exp(-step / (60 + 25 * i)));
}

function metricsOf(i: number): RunMetrics {
  const { step: steps, id } = summaryOf(i);
  const random = noise(i + 1);
  const step = Array.from({ length: steps }, (_, at) => at + 1);
  const series = (value: (at: number) => number) => ({ mean: step.map(value) });
  const evals = step.filter((at) => at % 100 === 0);
  return {
    ...{ id, steps, stepsPerPoint: 1 },
    train: {
      step,
      series: {
        loss: series((at) => lossAt(at, i) * (0.8 + 0.4 * random())),
        learningRate: series((at) => 1e-3 * Math.min(at / 40, 1 - at / 1000)),
        gradNorm: series(() => 0.3 + 0.9 * random() ** 3),
        tokens: series(() => 512),
        tokensPerSecond: series((at) => (at % 61 === 0 ? 380 : 590 + 40 * random())),
        elapsedMs: series((at) => at * 410),
      },
    },
    eval: {
      step: evals,
      series: {
        loss: { mean: evals.map((at) => lossAt(at, i) + 0.05) },
        lossStandardError: { mean: evals.map((at) => 0.02 + 2 / (at + 20)) },
        perplexity: { mean: evals.map((at) => Math.exp(lossAt(at, i) + 0.05)) },
        exactMatch: { mean: evals.map((at) => Math.min(0.97, at / 800)) },
      },
    },
    forget: { step: [], series: {} },
    best: evals.slice(-1),
    badLines: 0,
  };
}

const atPeak = {
  weights: 269e6,
  adapters: 19.6e6,
  gradients: 19.6e6,
  optimizer: 39.2e6,
  activations: 188e6,
  logits: 64e6,
  workspace: 12e6,
};
const sum = (parts: Readonly<Record<string, number>>) =>
  Object.values(parts).reduce((one, two) => one + two, 0);

function detailOf(i: number): RunDetail {
  const summary = summaryOf(i);
  return {
    summary,
    recipe: {
      ...{ model: summary.model, method: summary.method, rank: summary.rank, learningRate: 1e-3 },
      ...{ schedule: "linear", batchSize: 8, sequenceLength: 512, targets: "all-linear", seed: 0 },
    },
    command: `lowrank train --model models/SmolLM-135M --data rows.jsonl --out runs/${i} --rank ${summary.rank} --learning-rate 0.001`,
    device: "CPU, 2 threads, avx512bf16",
    backend: "cpu",
    precision: "bf16",
    lowrank: "0.1.0",
    trainableParameters: 4_884_480,
    totalParameters: 139_399_488,
    flopsPerToken: 0.66 * gigaFlops,
    peakTokensPerSecond: 792,
    data: { file: "data/rows.jsonl", rows: 4_000, tokens: 401_233, targetTokens: 88_120 },
    evalData: { file: "data/held-out.jsonl", rows: 200, tokens: 20_101, targetTokens: 4_420 },
    best: { metric: "loss", step: 300, value: lossAt(300, i) },
    checkpoints: [100, 200, 300],
    log: ["step 299: loss 0.61", "step 300: loss 0.60", hostile],
  };
}

const story =
  "Nick stayed at the shop all day.\nWhile he was at the castle, Max found a red crayon.\n\nRecord: ";
const answer = '{"who":"Max","where":"the castle","what":"a red crayon"}';

function rowsOf(set: "train" | "eval", from: number, count: number): RowsView {
  const random = noise(from + 7);
  const words = (text: string) => text.match(/\s*[A-Za-z]+|\s*[^\sA-Za-z]|\s+/g) ?? [];
  return {
    ...{ set, from, count, total: 200, step: 300 },
    rows: Array.from({ length: count }, (_, i) => ({
      label: `held-out.jsonl line ${from + i + 1}`,
      cut: i === 1,
      tokens: [
        ...words(i === 2 ? `${hostile} ${story}` : story).map((text, at) => ({ text, target: false, at })),
        ...words(answer).map((text, at) => ({ text, target: true, at })),
        { text: "<|endoftext|>", target: true, at: 99 },
      ].map(({ text, target, at }) => {
        const before = 0.2 + 6 * random();
        return {
          ...{ id: 100 + at, text, target },
          ...(target && { before, after: before * 0.25 * random() }),
        };
      }),
    })),
  };
}

const samples: SamplesView = {
  step: 300,
  samples: [
    { prompt: story, base: "Once upon a time, there was a little girl who", tuned: answer, expected: answer },
    { prompt: hostile, base: hostile, tuned: '{"who":"Ann"}', expected: answer },
  ],
};

function layersOf(): LayersView {
  const targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
  const random = noise(3);
  return {
    step: 300,
    modules: Array.from({ length: 12 }, (_, layer) =>
      targets.map((target) => ({
        name: `model.layers.${layer}.${target.length > 6 ? "mlp" : "self_attn"}.${target}`,
        ...{ layer, target, shape: [576, 1536] as const, norm: 1 + random() },
        relativeSize: 0.004 + 0.03 * random() * (0.4 + layer / 12),
        singularValues: Array.from({ length: 16 }, (_, k) => 0.9 * 0.72 ** k),
        ...{ rank90: 4, rank95: 5, rank99: 9, effectiveRank: 6.3 },
      })),
    ).flat(),
    unchanged: ["lm_head"],
  };
}

const memory: MemoryView = {
  planned: { peakBytes: sum(atPeak), atPeak },
  measured: {
    peakBytes: sum(atPeak) - 9e6,
    atPeak: { ...atPeak, activations: 181e6, workspace: 10e6 },
    live: { ...atPeak, activations: 0, logits: 0 },
    peakRssBytes: 901e6,
  },
  rssBytes: 880e6,
  notes: ["Planned for 8 sequences of 512 tokens."],
};

const compare: CompareView = {
  summary: {
    ...{ id: "compares/records", status: "done", model: "models/SmolLM-135M", data: "rows.jsonl" },
    ...{ rows: 4, changedMs: now - 7_200_000 },
  },
  heading: ["method", "learning rate", "trains", "peak MB", "tokens/s", "time s", "loss ± standard error"],
  cells: [
    ["base", "-", "0", "-", "-", "-", "2.91 ± 0.05"],
    ["full", "0.0002", "134,515,008", "2190.4", "402", "912.0", "0.5821 ± 0.0211"],
    ["lora-r8", "0.001", "2,442,240", "611.2", "612", "602.1", "0.6010 ± 0.0208"],
    ["qlora-r8", "0.001", "2,442,240", "402.9", "598", "618.8", "0.6124 ± 0.0214"],
  ],
  notes: ["Standard errors: bootstrap over evaluation rows."],
  quality: "loss",
  rows: ["base", "full", "lora-r8", "qlora-r8"].map((name, i) => ({
    ...{ name, method: name.replace(/-.*/, ""), rank: i < 2 ? 0 : 8, trainableParameters: 2_442_240 },
    ...(i > 0 && { learningRate: 1e-3, peakBytes: [0, 2190e6, 611e6, 403e6][i]!, tokensPerSecond: 600 }),
    scores: { loss: [2.91, 0.5821, 0.601, 0.6124][i]! },
    standardErrors: { loss: 0.021 },
    intervals: { loss: { low: 0.55, high: 0.64 } },
    tried:
      i === 0
        ? []
        : [2e-4, 1e-3, 5e-3].map((learningRate, k) => ({
            learningRate,
            validationLoss: k === 2 && i === 1 ? null : 0.6 + 0.05 * Math.abs(k - 1) + 0.01 * i,
          })),
    course: i === 0 ? [] : Array.from({ length: 200 }, (_, at) => [at + 1, lossAt(at + 1, i)] as const),
    ...(i === 2 && { run: "stories-r8" }),
  })),
};

const formField = (key: string, more: Partial<FormOptions["groups"][number]["fields"][number]> = {}) => ({
  key,
  flag: `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
  kind: "text" as const,
  description: `what ${key} is for, in a few words`,
  expected: "text",
  placeholder: "TEXT",
  required: false,
  defaultOn: false,
  ...more,
});

const options: FormOptions = {
  command: "train",
  groups: [
    {
      title: "Model and adapter",
      fields: [
        formField("model", {
          required: true,
          placeholder: "M",
          description: "model folder, or a name on the hub",
        }),
        formField("out", { required: true }),
        formField("method", { kind: "choice", choices: ["lora", "qlora", "full"], defaultText: "lora" }),
        formField("rank", {
          kind: "number",
          min: 1,
          max: 1024,
          whole: true,
          defaultText: "8",
          expected: "a whole number from 1 to 1024",
        }),
        formField("targets", { defaultText: "all-linear" }),
        formField("dropout", {
          kind: "number",
          min: 0,
          max: 1,
          defaultText: "0",
          expected: "a number of at least 0 and at most 1",
        }),
        formField("rslora", { kind: "switch" }),
      ],
    },
    {
      title: "Data",
      fields: [
        formField("data", { kind: "list", required: true, placeholder: "F", description: "training rows" }),
        formField("shuffle", { kind: "switch", defaultOn: true }),
      ],
    },
    {
      title: "Steps",
      fields: [
        formField("epochs", {
          kind: "number",
          min: 0,
          defaultText: "3, unless --max-steps is given",
          expected: "a number above 0",
        }),
        formField("maxSteps", {
          kind: "number",
          min: 1,
          whole: true,
          expected: "a whole number of at least 1",
        }),
        formField("batchSize", {
          kind: "number",
          min: 1,
          whole: true,
          defaultText: "8",
          expected: "a whole number of at least 1",
        }),
        formField("sequenceLength", {
          kind: "number",
          min: 1,
          whole: true,
          defaultText: "1024, or the model's",
          expected: "a whole number of at least 1",
        }),
      ],
    },
    {
      title: "Optimizer",
      fields: [
        formField("learningRate", {
          kind: "number",
          min: 0,
          defaultText: "0.0002 for lora and qlora, 0.00002 for full",
          expected: "a number above 0",
        }),
        formField("weightDecay", {
          kind: "number",
          min: 0,
          defaultText: "0.01",
          expected: "a number of at least 0",
        }),
      ],
    },
    { title: "Memory, device and output", fields: [formField("vram", { kind: "size" })] },
  ],
  alternatives: [["epochs", "maxSteps"]],
};

const planView: PlanView = {
  model: { name: "models/SmolLM-135M", modelType: "llama", parameters: 134_515_008, layers: 30, width: 576 },
  ...{ batchSize: 8, sequenceLength: 1024, rank: 8, availableBytes: 1.4e9 },
  methods: (
    [
      ["full-fp32", "full, fp32", 4.1],
      ["full-bf16", "full, bf16 products", 3.6],
      ["lora", "LoRA, bf16 base", 1.6],
      ["qlora", "QLoRA, NF4 base", 1.25],
    ] as const
  ).map(([name, title, times]) => ({
    ...{ name, title, chosen: name === "lora", trainableParameters: 2_442_240 },
    peakBytes: sum(atPeak) * times,
    atPeak: Object.fromEntries(Object.entries(atPeak).map(([key, value]) => [key, value * times])),
    fits: sum(atPeak) * times < 1.4e9,
  })),
  flopsPerToken: 0.66 * gigaFlops,
  peakTokensPerSecond: 792,
  notes: ["Activations are recomputed where that is what makes it fit."],
};

const info: ServerInfo = {
  ...{ version: "0.1.0", folder: "runs", canStart: true },
  machine: {
    ...{ cores: 2, memoryBytes: 25e9, availableBytes: 1.4e9 },
    peak: { device: "CPU, 2 threads, avx512bf16", precision: "bf16", flopsPerSecond: 523e9, measuredMs: now },
  },
};

export interface FixtureServer {
  readonly url: string;
  /** What was posted, by path. */
  readonly posted: { path: string; body: unknown }[];
  close(): Promise<void>;
}

/** Serves the page in `folder` and the routes below /api. */
export async function openFixture(folder: string): Promise<FixtureServer> {
  const posted: { path: string; body: unknown }[] = [];
  const streams = new Set<ServerResponse>();
  const byId = (id: string) => names.indexOf(id);
  const answer = (path: string, query: URLSearchParams): unknown => {
    const [kind, id, part] = path.split("/").map(decodeURIComponent);
    if (kind === "server") return info;
    if (kind === "options") return options;
    if (kind === "plan") return planView;
    if (kind === "peak") return info.machine.peak;
    if (kind === "compares") return compare;
    if (kind !== "runs") return undefined;
    if (id === undefined) {
      const list: RunList = {
        runs: names.map((_, i) => summaryOf(i)),
        compares: [compare.summary],
        truncated: false,
      };
      return list;
    }
    const i = byId(id);
    if (i < 0) return undefined;
    const more: Readonly<Record<string, () => unknown>> = {
      metrics: () => metricsOf(i),
      rows: () =>
        rowsOf(
          query.get("set") === "train" ? "train" : "eval",
          Number(query.get("from")),
          Number(query.get("count")),
        ),
      samples: () => samples,
      layers: layersOf,
      memory: () => memory,
    };
    return part === undefined ? detailOf(i) : (more[part]?.() ?? summaryOf(i));
  };
  const server: Server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url!, "http://localhost");
    if (pathname === "/api/events") {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write('event: hello\nid: 1\ndata: {"type":"hello","resumed":true}\n\n');
      streams.add(response);
      return;
    }
    if (pathname.startsWith("/api/")) {
      let text = "";
      request.setEncoding("utf8").on("data", (piece: string) => (text += piece));
      request.on("end", () => {
        const path = pathname.slice("/api/".length);
        const body = text === "" ? undefined : (JSON.parse(text) as { values?: Record<string, unknown> });
        if (request.method === "POST") posted.push({ path, body });
        const json = (status: number, value: unknown) =>
          response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
        if (body?.values?.model === "nowhere")
          return json(400, { error: { message: "--model nowhere: no such folder.", field: "model" } });
        if (path === "runs" && request.method === "POST") return json(201, summaryOf(0));
        const found = answer(path, searchParams);
        return found === undefined
          ? json(404, { error: { message: `There is no ${path} here.` } })
          : json(200, found);
      });
      return;
    }
    const name = pathname === "/" ? "index.html" : pathname.slice(1);
    try {
      if (!/^[\w.-]+$/.test(name)) throw new Error("no file of the page");
      response.writeHead(200, {
        "content-type": types[extname(name)] ?? "application/octet-stream",
        "content-security-policy": policy,
      });
      response.end(readFileSync(join(folder, name)));
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    posted,
    close: () => {
      for (const stream of streams) stream.end();
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
