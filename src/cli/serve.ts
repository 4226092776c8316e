// `lowrank serve`: starts the engine thread and the server, says where it listens, and ends in order when told to.
// Answers are serve/'s.

import { serveDefinition } from "../config/serve-options.ts";
import { locateModel } from "../formats/locate-model.ts";
import { EngineThread } from "../serve/engine-thread.ts";
import { Preparers } from "../serve/preparers.ts";
import { startServer } from "../serve/server.ts";
import { UsageError } from "../util/errors.ts";
import { defineCommand } from "./command.ts";
import { formatBytes } from "./format.ts";
import { onStop } from "./signals.ts";
import { describeError, exitCodes, exitNow } from "./terminal.ts";

const loopback = new Set(["127.0.0.1", "localhost", "::1"]);
/** A cache for a model's whole context is often more than a laptop has. */
const usualContext = 4096;

export const command = defineCommand(serveDefinition, async (options, terminal) => {
  const apiKey = options.apiKey ?? (process.env.LOWRANK_API_KEY || undefined);
  if (!loopback.has(options.host) && apiKey === undefined) {
    throw new UsageError(
      `--host ${options.host} can be reached by others: give --api-key (or LOWRANK_API_KEY), or listen on 127.0.0.1.`,
    );
  }
  let lost: ((error: Error) => void) | undefined;
  const loss = new Promise<never>((_, reject) => {
    lost = reject;
  });
  loss.catch(() => {});
  const model = locateModel(options.model);
  const name = options.name ?? nameOf(options.model);
  const starting = EngineThread.start(
    {
      model,
      roomFor: Object.values(options.adapters),
      backend: options.backend,
      precision: options.precision,
      threads: options.threads,
      slots: options.slots,
      context: options.context ?? usualContext,
      cacheType: options.kvType,
      cacheBytes: options.kvMemory,
    },
    (error) => lost?.(error),
  );
  starting.catch(() => {});
  // Both load at the same time; a template that cannot be read is told without waiting for the weights.
  const { preparers, facts: preparing } = await Preparers.start({
    model,
    modelName: name,
    chatTemplate: options.chatTemplate,
  });
  const engine = await starting;
  const { facts } = engine;
  const server = await startServer(
    { engine, preparers },
    {
      host: options.host,
      port: options.port,
      apiKey,
      modelName: name,
      adapters: options.adapters,
      adapterFolder: options.adapterFolder,
      maxBodyBytes: options.maxBody,
      maxTokens: options.maxTokens,
      maxRequests: options.maxRequests,
      timeoutSeconds: options.timeout,
      onNote: (note) => terminal.note(note),
      onFault: (error) => terminal.warn(describeError(error).message),
    },
  ).catch(async (error: unknown) => {
    await Promise.all([engine.close(), preparers.close()]);
    throw error;
  });
  for (const note of preparing.notes) terminal.note(note);
  const models = [name, ...Object.keys(options.adapters)];
  if (terminal.json) terminal.document({ url: server.url, models, context: facts.context });
  else terminal.print(`${server.url}/v1 serves ${models.join(", ")}`);
  const { cache } = facts;
  terminal.note(
    `${facts.modelType} on ${facts.device}; ${options.slots} slots of ${facts.context} tokens, up to ${formatBytes(cache.bytes)} of cache: ${cache.tokens} tokens in ${cache.type}, ${formatBytes(cache.tokenBytes)} each`,
  );
  if (!preparing.hasChatTemplate)
    terminal.warn("the model has no chat template: /v1/chat/completions needs --chat-template");

  const told = new Promise<void>((resolve) => {
    onStop(resolve, () => exitNow(exitCodes.interrupted));
  });
  await Promise.race([told, loss]);
  terminal.note(`ending; ${server.inFlight} requests at work`);
  await server.close(options.grace * 1000);
  await Promise.all([engine.close(), preparers.close()]);
  return exitCodes.done;
});

/** "tiny", or the last part of a path or hub name. */
function nameOf(model: string): string {
  const last = model
    .replace(/@.*$/, "")
    .replace(/[\\/]+$/, "")
    .split(/[\\/]/)
    .at(-1);
  return last || "model";
}
