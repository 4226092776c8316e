// A running server over a tiny model and three adapters, for the tests that import it: it starts before them and must have
// met no fault after them. What is asked of it: server.test.ts, hostile-clients.test.ts.

import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, expect } from "vitest";
import { openBackend } from "../../src/backend/index.ts";
import { beginText } from "../../src/data/render.ts";
import { continueText } from "../../src/generate/continue-text.ts";
import { greedy } from "../../src/generate/sampler.ts";
import { openModel } from "../../src/models/open-model.ts";
import type { EngineThread } from "../../src/serve/engine-thread.ts";
import type { Preparers } from "../../src/serve/preparers.ts";
import type { RunningServer, ServerOptions } from "../../src/serve/server.ts";
import { backendName } from "../backend/fastest-backend.ts";
import { scratchFolder, writeRandomAdapter, writeTinyModel } from "../publish/tiny-model.ts";

export { backendName };

// Threads run compiled code alone.
const built = (path: string) => import(new URL(`../../dist/serve/${path}.js`, import.meta.url).href);
if (!existsSync(new URL("../../dist/serve/server.js", import.meta.url)))
  throw new Error("dist/ is missing: run `npm run build` first, as `npm test` does.");
const { EngineThread: Thread } = (await built(
  "engine-thread",
)) as typeof import("../../src/serve/engine-thread.ts");
const { Preparers: Threads } = (await built("preparers")) as typeof import("../../src/serve/preparers.ts");
export const { startServer } = (await built("server")) as typeof import("../../src/serve/server.ts");

export const root = scratchFolder();
export const template =
  "{{ bos_token }}{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
export const names = ["base", "red", "blue"] as const;
export const faults: unknown[] = [];
export const notes: string[] = [];
export let model: string;
export let engine: EngineThread;
export let preparers: Preparers;
export let server: RunningServer;
export let client: OpenAI;
export const limits = {
  host: "127.0.0.1",
  port: 0,
  modelName: "base",
  adapters: { red: join(root, "red"), blue: join(root, "blue") },
  maxBodyBytes: 20_000,
  maxTokens: 64,
  maxRequests: 256,
  timeoutSeconds: 60,
  onNote: (note: string) => notes.push(note),
  onFault: (error: unknown) => faults.push(error),
} satisfies ServerOptions;

beforeAll(async () => {
  model = writeTinyModel(join(root, "model"), "llama-gqa-tied-llama3");
  const config = JSON.parse(readFileSync(join(model, "tokenizer_config.json"), "utf8"));
  writeFileSync(join(model, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template: template }));
  mkdirSync(join(root, "shelf"));
  await writeRandomAdapter(join(root, "red"), model, { rslora: true }, 0.3, 1);
  await writeRandomAdapter(join(root, "blue"), model, { targets: ["q_proj", "down_proj"] }, 0.4, 2);
  await writeRandomAdapter(join(root, "shelf", "green"), model, {}, 0.3, 3);
  symlinkSync(join(root, "red"), join(root, "shelf", "outside"));
  engine = await Thread.start(
    {
      model,
      roomFor: [],
      backend: backendName,
      precision: "fp32",
      threads: 1,
      slots: 6,
      context: 128,
      cacheType: "auto",
    },
    (error) => faults.push(error),
  );
  ({ preparers } = await Threads.start({ model, modelName: "base" }));
  server = await startServer({ engine, preparers }, { ...limits, adapterFolder: join(root, "shelf") });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "unused", maxRetries: 0 });
});
afterAll(async () => {
  await server.close(1000);
  await engine.close();
  await preparers.close();
  expect(faults).toEqual([]);
});

/** What the command line would say. */
export async function expected(
  name: (typeof names)[number],
  prompts: readonly string[],
  maxNewTokens: number,
) {
  const backend = await openBackend(backendName, { precision: "fp32", threads: 1 });
  const opened = await openModel(backend, model, { adapter: name === "base" ? undefined : join(root, name) });
  const texts: string[] = [];
  for (const prompt of prompts) {
    const ids = beginText(opened.tokenizer, prompt);
    texts.push(
      (await continueText(opened.loaded.decoder, opened.tokenizer, ids, { maxNewTokens, sampling: greedy }))
        .text,
    );
  }
  await opened.close();
  backend.close();
  return texts;
}

export const post = (
  path: string,
  body: string | Uint8Array<ArrayBuffer>,
  headers: Record<string, string> = {},
) =>
  fetch(`${server.url}${path}`, {
    method: "POST",
    body,
    headers: { "Content-Type": "application/json", ...headers },
  });
