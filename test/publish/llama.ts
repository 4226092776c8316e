// llama.cpp as a second opinion: the installation of node-llama-cpp in the folder that LOWRANK_LLAMA names (its
// node_modules). Tests skip where it is absent.

import { join } from "node:path";
import { pathToFileURL } from "node:url";

const folder = process.env.LOWRANK_LLAMA ?? "";

export const llama = {
  present: folder !== "",
  reason: folder ? "live" : "skipped: LOWRANK_LLAMA is not set",
};

/** As much of node-llama-cpp as is used here; its own types are not installed with the repository. */
interface LlamaModel {
  tokenize(text: string, specialTokens?: boolean): number[];
  detokenize(ids: readonly number[], specialTokens?: boolean): string;
  createContext(options: object): Promise<LlamaContext>;
  readonly tokens: { readonly bos: number | null; readonly eos: number | null };
  readonly fileInfo: { readonly metadata: unknown };
  dispose(): Promise<void>;
}
interface LlamaContext {
  getSequence(): {
    clearHistory(): Promise<void>;
    controlledEvaluate(
      input: readonly unknown[],
    ): Promise<({ next: { token: number | null; probabilities?: Map<number, number> } } | undefined)[]>;
  };
  dispose(): Promise<void>;
}

export interface LlamaRun {
  tokenize(text: string): number[];
  /** Probabilities of the token after each of `ids`, by token. */
  probabilities(ids: readonly number[]): Promise<Map<number, number>[]>;
  /** The next `count` likeliest tokens. */
  greedy(ids: readonly number[], count: number): Promise<number[]>;
  close(): Promise<void>;
}

export async function openLlama(gguf: string, lora?: string): Promise<LlamaRun> {
  const entry = pathToFileURL(join(folder, "node_modules/node-llama-cpp/dist/index.js")).href;
  const { getLlama, LlamaLogLevel } = (await import(entry)) as {
    getLlama(
      options: object,
    ): Promise<{ loadModel(options: object): Promise<LlamaModel>; dispose(): Promise<void> }>;
    LlamaLogLevel: Record<string, unknown>;
  };
  const engine = await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    // Tiny models: a second thread would only wait for its turn.
    maxThreads: 1,
    logLevel: LlamaLogLevel.error,
  });
  const model = await engine.loadModel({ modelPath: gguf });
  const context = await model.createContext({
    contextSize: 256,
    // llama.cpp keeps keys and values in f16 otherwise, and its flash attention rounds to f16 whatever they are.
    flashAttention: false,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
    ...(lora === undefined ? {} : { lora: { adapters: [{ filePath: lora, scale: 1 }] } }),
  });
  const sequence = context.getSequence();
  const evaluate = (ids: readonly number[], wanted: object) =>
    sequence.controlledEvaluate(
      ids.map((id, i) => (i < ids.length - 1 && "token" in wanted ? id : [id, { generateNext: wanted }])),
    );
  return {
    tokenize: (text) => model.tokenize(text, false),
    async probabilities(ids) {
      await sequence.clearHistory();
      return (await evaluate(ids, { probabilities: true })).map((each) => each!.next.probabilities!);
    },
    async greedy(ids, count) {
      await sequence.clearHistory();
      const drawn: number[] = [];
      while (drawn.length < count) {
        const result = await evaluate(drawn.length === 0 ? ids : drawn.slice(-1), { token: true });
        drawn.push(result.at(-1)!.next.token!);
      }
      return drawn;
    },
    async close() {
      await context.dispose();
      await model.dispose();
      await engine.dispose();
    },
  };
}
