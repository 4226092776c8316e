// Counters of the server in Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats).

import type { EngineThread } from "./engine-thread.ts";

const secondBuckets = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300];

class Histogram {
  private readonly counts = secondBuckets.map(() => 0);
  private count = 0;
  private sum = 0;

  observe(seconds: number): void {
    this.count++;
    this.sum += seconds;
    for (const [i, bound] of secondBuckets.entries()) if (seconds <= bound) this.counts[i]!++;
  }

  lines(name: string): string[] {
    return [
      `# TYPE ${name} histogram`,
      ...secondBuckets.map((bound, i) => `${name}_bucket{le="${bound}"} ${this.counts[i]}`),
      `${name}_bucket{le="+Inf"} ${this.count}`,
      `${name}_sum ${this.sum}`,
      `${name}_count ${this.count}`,
    ];
  }
}

export class Metrics {
  promptTokens = 0;
  /** Of the prompts' tokens, those whose keys and values were there already. */
  cachedTokens = 0;
  generatedTokens = 0;
  cancelled = 0;
  readonly requestSeconds = new Histogram();
  readonly firstTokenSeconds = new Histogram();
  private readonly requests = new Map<string, number>();

  /** `route` is one of ours, never a client's text. */
  countRequest(route: string, status: number): void {
    const labels = `route="${route}",status="${status}"`;
    this.requests.set(labels, (this.requests.get(labels) ?? 0) + 1);
  }

  text(gauges: Readonly<Record<string, number>>, counters: Readonly<Record<string, number>> = {}): string {
    const counter = (name: string, value: number) => [`# TYPE ${name} counter`, `${name} ${value}`];
    return `${[
      "# TYPE lowrank_requests_total counter",
      ...[...this.requests].map(([labels, value]) => `lowrank_requests_total{${labels}} ${value}`),
      ...counter("lowrank_prompt_tokens_total", this.promptTokens),
      ...counter("lowrank_prompt_cached_tokens_total", this.cachedTokens),
      ...counter("lowrank_generated_tokens_total", this.generatedTokens),
      ...counter("lowrank_cancelled_total", this.cancelled),
      ...Object.entries(counters).flatMap(([name, value]) => counter(name, value)),
      ...this.requestSeconds.lines("lowrank_request_seconds"),
      ...this.firstTokenSeconds.lines("lowrank_first_token_seconds"),
      ...Object.entries(gauges).flatMap(([name, value]) => [`# TYPE ${name} gauge`, `${name} ${value}`]),
    ].join("\n")}\n`;
  }
}

/** Blocks of keys and values: those the budget allows, those there is memory for, those of requests, and those kept. */
export function cacheGauges({ facts, load }: Pick<EngineThread, "facts" | "load">): Record<string, number> {
  return {
    lowrank_kv_token_bytes: facts.cache.tokenBytes,
    lowrank_kv_block_tokens: load.blockTokens,
    lowrank_kv_blocks: load.blocks,
    lowrank_kv_blocks_held: load.heldBlocks,
    lowrank_kv_blocks_used: load.usedBlocks,
    lowrank_kv_blocks_cached: load.cachedBlocks,
  };
}
