// `lowrank chat`: a conversation in the terminal. Lines are messages; lines that begin with a slash are commands.
// Ctrl-C ends an answer, and at the prompt the conversation. History and answers are generate/conversation.ts's.

import { createInterface } from "node:readline";
import { openBackend } from "../backend/index.ts";
import { chatDefinition } from "../config/chat-options.ts";
import { locateModel } from "../formats/locate-model.ts";
import { type LoadedAdapter, readAdapter } from "../formats/peft.ts";
import { chooseCacheType } from "../generate/cache-type.ts";
import { Conversation } from "../generate/conversation.ts";
import { GenerationEngine } from "../generate/engine.ts";
import { type AdapterSet, loadAdapterSet } from "../models/adapter-set.ts";
import { openModel } from "../models/open-model.ts";
import { type OpenedText, openText } from "../text/open-text.ts";
import { UserError } from "../util/errors.ts";
import { inColumns } from "./columns.ts";
import { defineCommand } from "./command.ts";
import { exitCodes, type Terminal } from "./terminal.ts";

const usualContext = 4096;

const help = [
  "/adapter NAME   who answers: an adapter, or base",
  "/base           show the base's answer beside the adapter's; again to stop",
  "/reset          forget the conversation",
  "/system TEXT    begin anew with this system message",
  "/exit           end",
].join("\n");

export const command = defineCommand(chatDefinition, async (options, terminal) => {
  const backend = await openBackend(options.backend, options);
  const adapters = new Map<string, AdapterSet>();
  try {
    const given = new Map<string, LoadedAdapter>();
    for (const [name, folder] of Object.entries(options.adapters)) given.set(name, await readAdapter(folder));
    const path = locateModel(options.model);
    const { chatTemplate } = options;
    const model = await openModel(backend, path, {
      tell: terminal.warn,
      roomFor: [...given.values()],
      text: { chatTemplate },
    });
    try {
      const { config, text, vocabularySize } = model;
      const { decoder } = model.loaded;
      const texts = new Map<string, OpenedText>();
      for (const [name, adapter] of Object.entries(options.adapters)) {
        adapters.set(name, loadAdapterSet(decoder, given.get(name)!, vocabularySize));
        const own = await openText({ model: path, adapter, chatTemplate }, text);
        for (const message of own.notes) terminal.note(`${name}: ${message}`);
        texts.set(name, own);
      }
      if (![text, ...texts.values()].some(({ template }) => template)) {
        throw new UserError(
          `${text.tokenizer.name}: chat needs a chat template, and this model has none; pass the one it was trained with as --chat-template chatml, alpaca or a Jinja file`,
        );
      }
      const context = Math.min(options.context ?? usualContext, config.maxPositions);
      const engine = new GenerationEngine(decoder, {
        ...{
          slots: 2,
          capacity: context,
          vocabularySize,
          cacheType: chooseCacheType(backend, config, "auto", options.precision),
        },
      });
      const { maxNewTokens, system } = options;
      const conversation = new Conversation({
        engine,
        tokenizer: text.tokenizer,
        template: text.template,
        adapters,
        texts,
        sampling: options,
        maxNewTokens,
        context,
        system,
      });
      terminal.note(`${config.modelType} on ${backend.description}; /help says what else there is`);
      try {
        await talk(conversation, terminal);
      } finally {
        await engine.close();
      }
      return exitCodes.done;
    } finally {
      for (const set of adapters.values()) set.free();
      await model.close();
    }
  } finally {
    backend.close();
  }
});

async function talk(conversation: Conversation, terminal: Terminal): Promise<void> {
  const interactive = process.stdin.isTTY === true;
  const lines = createInterface({
    input: process.stdin,
    output: interactive ? process.stderr : undefined,
    historySize: 200,
  });
  const signal = { aborted: false };
  let answering = false;
  lines.on("SIGINT", () => {
    if (answering) signal.aborted = true;
    else lines.close();
  });
  const ask = () => {
    lines.setPrompt(`${conversation.adapter ?? "base"}> `);
    if (interactive) lines.prompt();
  };
  let both = false;
  ask();
  for await (const line of lines) {
    const text = line.trim();
    signal.aborted = false;
    answering = true;
    try {
      if (text === "/exit" || text === "/quit") break;
      if (text === "/base") {
        both = !both;
        terminal.note(both ? "base and adapter side by side" : "one answer");
      } else if (text.startsWith("/")) obey(conversation, text, terminal);
      else if (text !== "") await answer(conversation, text, both, signal, terminal);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      terminal.warn(error.message);
    } finally {
      answering = false;
    }
    ask();
  }
  lines.close();
}

function obey(conversation: Conversation, line: string, terminal: Terminal): void {
  const [name, ...rest] = line.split(/\s+/);
  const argument = rest.join(" ");
  if (name === "/adapter" && argument !== "") conversation.select(argument);
  else if (name === "/reset") conversation.reset();
  else if (name === "/system" && argument !== "") conversation.reset(argument);
  else if (name === "/help") terminal.note(help);
  else throw new UserError(`${line}: no such command.\n${help}`);
}

async function answer(
  conversation: Conversation,
  text: string,
  both: boolean,
  signal: { readonly aborted: boolean },
  terminal: Terminal,
): Promise<void> {
  const before = conversation.forgotten;
  if (both && conversation.adapter !== undefined) {
    const { base, tuned } = await conversation.sayBoth(text, { signal });
    terminal.print(
      inColumns(
        [
          { title: "base", text: base.text.trim() },
          { title: conversation.adapter, text: tuned.text.trim() },
        ],
        terminal.columns,
      ),
    );
  } else {
    if (both) terminal.note("the base itself answers; choose an adapter with /adapter to compare");
    await conversation.say(text, { signal, onText: (piece) => terminal.stream(piece) });
    terminal.stream("\n");
  }
  if (conversation.forgotten > before)
    terminal.note("the conversation outgrew the context: its oldest turns are forgotten");
}
