// llama.cpp as a second reader of GGUF files, where node-llama-cpp is installed: beside the program that runs, or in the
// folder that LOWRANK_LLAMA names. It is no dependency: without it files are checked by our own reader alone.

/** As much of node-llama-cpp as is used here. */
interface LlamaModel {
  tokenize(text: string, specialTokens?: boolean): number[];
  createContext(options: object): Promise<LlamaContext>;
  dispose(): Promise<void>;
}
interface LlamaContext {
  getSequence(): {
    clearHistory(): Promise<void>;
    controlledEvaluate(
      input: readonly unknown[],
    ): Promise<({ next: { probabilities?: Map<number, number> } } | undefined)[]>;
  };
  dispose(): Promise<void>;
}
interface Module {
  getLlama(options: object): Promise<{
    loadModel(options: object): Promise<LlamaModel>;
    dispose(): Promise<void>;
  }>;
  readonly LlamaLogLevel: Readonly<Record<string, unknown>>;
}

export interface LlamaReader {
  tokenize(text: string): number[];
  /** Probabilities of the token after each of `ids`, by token. */
  probabilities(ids: readonly number[]): Promise<ReadonlyMap<number, number>[]>;
  close(): Promise<void>;
}

/** Undefined where node-llama-cpp is not installed. Throws what llama.cpp says of a file that it cannot load. */
export async function openInLlama(file: string, contextSize: number): Promise<LlamaReader | undefined> {
  const found = await llamaModule();
  if (!found) return undefined;
  const { getLlama, LlamaLogLevel } = found;
  const engine = await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    logLevel: LlamaLogLevel.error,
  });
  try {
    const model = await engine.loadModel({ modelPath: file });
    // Keys and values are rounded to f16 otherwise, by its flash attention whatever they are.
    const context = await model.createContext({
      contextSize,
      flashAttention: false,
      experimentalKvCacheKeyType: "F32",
      experimentalKvCacheValueType: "F32",
    });
    const sequence = context.getSequence();
    return {
      tokenize: (text) => model.tokenize(text, false),
      async probabilities(ids) {
        await sequence.clearHistory();
        const wanted = { generateNext: { probabilities: true } };
        const answers = await sequence.controlledEvaluate(ids.map((id) => [id, wanted]));
        return answers.map((answer) => answer!.next.probabilities!);
      },
      async close() {
        await context.dispose();
        await model.dispose();
        await engine.dispose();
      },
    };
  } catch (error) {
    await engine.dispose();
    throw error;
  }
}

async function llamaModule(): Promise<Module | undefined> {
  const { createRequire } = await import("node:module");
  const { pathToFileURL } = await import("node:url");
  const places = [process.env.LOWRANK_LLAMA, process.cwd()].filter((place) => place);
  for (const place of places) {
    try {
      const entry = createRequire(`${place}/package.json`).resolve("node-llama-cpp");
      return (await import(pathToFileURL(entry).href)) as Module;
    } catch {
      // Not installed there.
    }
  }
  return undefined;
}
