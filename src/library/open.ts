// open(): a model, with an adapter where one is given, held open for use in this process: generate, chat, evaluate, and
// sessions that train on it. What `lowrank generate`, `eval` and users' programs share. Kernels run on the thread that
// calls; train() has one of its own. Not here: sessions (session.ts), runs with folders (train.ts).

import type { Backend } from "../backend/backend.ts";
import { type BackendName, openBackend } from "../backend/index.ts";
import type { InputOf } from "../config/define.ts";
import { evalDefinition, type MetricName } from "../config/eval-options.ts";
import type { deviceFields, Method } from "../config/fields.ts";
import { type GenerateOptions, generateDefinition } from "../config/generate-options.ts";
import { resolveInput } from "../config/resolve.ts";
import { beginText } from "../data/render.ts";
import { fetchModel } from "../formats/fetch-named.ts";
import type { HubHooks } from "../formats/hub.ts";
import { locateModel } from "../formats/locate-model.ts";
import { continueText } from "../generate/continue-text.ts";
import type { TextPrediction } from "../measure/evaluate-text.ts";
import { type MeasureHooks, measure } from "../measure/measure.ts";
import { type OpenedModel, openModel } from "../models/open-model.ts";
import { quantizeOnArrival } from "../models/quantized-weights.ts";
import { isQuantizer, type QuantizerName, quantizerNames } from "../quant/index.ts";
import type { ChatMessage } from "../text/chat-template.ts";
import { type OpenedText, openText } from "../text/open-text.ts";
import { renderRequest } from "../text/render-request.ts";
import { UsageError, UserError } from "../util/errors.ts";
import { type Rows, withRows } from "./rows.ts";
import { ModelSession, type SessionInput } from "./session.ts";

export interface OpenInput {
  /** Folder of an adapter in PEFT layout to use with the model. */
  readonly adapter?: string;
  /** What a session will train: the base is loaded for it, in 4 bits for "qlora". Default "lora", also for mere use. */
  readonly method?: Method;
  /** Values of a base in 4 bits, with method "qlora"; nf4 unless given. */
  readonly quantType?: QuantizerName;
  readonly backend?: BackendName;
  readonly precision?: "auto" | "fp32" | "bf16" | "fp16";
  /** CPU threads; 0 is one for each core. */
  readonly threads?: number;
  /** Warnings, what a download does, and what of an adapter's own text (chat template, tokenizer) is used. */
  readonly onWarning?: (message: string) => void;
}

type Generating = Omit<
  InputOf<typeof generateDefinition>,
  "model" | "adapter" | "prompt" | "chat" | "chatTemplate" | "stop" | "json" | keyof typeof deviceFields
>;

export interface GenerateInput extends Generating {
  readonly seed?: number;
  /** A text, or texts, before which the answer ends. */
  readonly stop?: string | readonly string[];
  /** Called with each piece of text as it becomes certain. */
  readonly onText?: (piece: string) => void;
  /** Ends the answer early: what there is of it is returned. */
  readonly signal?: AbortSignal;
}

export interface ChatInput extends GenerateInput {
  /** Tool definitions, for templates that show them. */
  readonly tools?: readonly unknown[];
  /** A Jinja file, chatml or alpaca, in place of the adapter's or the model's own template. */
  readonly chatTemplate?: string;
}

export interface Answer {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly finishReason: "stop" | "length";
  readonly promptTokens: number;
  readonly tokensPerSecond: number;
}

export type EvaluateInput = Omit<
  InputOf<typeof evalDefinition>,
  "model" | "adapter" | "data" | "metrics" | "predictions" | "json" | keyof typeof deviceFields
> & {
  readonly metrics?: readonly MetricName[];
  readonly progress?: MeasureHooks["progress"];
  readonly onWarning?: (message: string) => void;
};

/** Scores by name, as far as `metrics` asked for them. */
export interface Scores {
  readonly perplexity: number;
  readonly loss: number;
  readonly [name: string]: number;
}

export type Evaluated = Scores & { readonly rows: number; readonly tokens: number };

/** Opens a model: a folder, a hub name (fetched), or "tiny". UserError for whatever is missing or unsupported. */
export async function open(model: string, input: OpenInput = {}): Promise<Model> {
  const { adapter, method = "lora", quantType = "nf4", onWarning, ...device } = input;
  if (!isQuantizer(quantType)) {
    throw new UsageError(
      `open(): quantType: expected one of ${quantizerNames.join(", ")}; got ${JSON.stringify(quantType)}.`,
    );
  }
  const {
    backend: name,
    precision,
    threads,
  } = resolveInput(generateDefinition, { ...device, model, prompt: "-" }, "open()");
  const hooks: HubHooks = { warn: (message) => onWarning?.(message) };
  await fetchModel(model, "all", hooks);
  const backend = await openBackend(name, { precision, threads });
  try {
    const quantize = method === "qlora" ? quantizeOnArrival(backend, quantType) : undefined;
    const opened = await openModel(backend, locateModel(model), {
      adapter,
      train: method === "full",
      quantize,
      tell: onWarning,
    });
    for (const note of opened.text.notes) onWarning?.(note);
    return new Model(backend, opened, model, method);
  } catch (error) {
    backend.close();
    throw error;
  }
}

/** An open model. Dispose of it (`await using`) to free its memory. */
export class Model implements AsyncDisposable {
  private closed = false;
  private training: ModelSession | undefined;

  /** Made by open(). */
  constructor(
    private readonly backend: Backend,
    private readonly opened: OpenedModel,
    private readonly name: string,
    private readonly method: Method,
  ) {}

  /** The device, its instruction set and precision. */
  get device(): string {
    return this.backend.description;
  }

  /** config.json's model_type. */
  get architecture(): string {
    return this.opened.config.modelType;
  }

  /** Continues a prompt as it stands. */
  async generate(prompt: string, input: GenerateInput = {}): Promise<Answer> {
    const ids = beginText(this.open.tokenizer, prompt);
    return this.answer(ids, input, "generate()");
  }

  /** Answers a conversation, or one message of a user, through the chat template. */
  async chat(messages: string | readonly ChatMessage[], input: ChatInput = {}): Promise<Answer> {
    const { tools, chatTemplate, ...rest } = input;
    const { tokenizer, template } = await this.textWith(chatTemplate);
    if (!template) {
      throw new UserError(
        `${this.name}: chat() needs a chat template, and this model has none; pass the one it was trained with as chatTemplate: "chatml", "alpaca" or a Jinja file`,
      );
    }
    const list = typeof messages === "string" ? [{ role: "user", content: messages }] : messages;
    if (!Array.isArray(list) || list.length === 0) {
      throw new UsageError("chat(): messages: expected a text or a non-empty array of messages.");
    }
    const text = renderRequest(template, list, { tools });
    return this.answer(tokenizer.encode(text, { addSpecialTokens: false }), rest, "chat()");
  }

  /** Measures the model on rows: perplexity, unless `metrics` names others. */
  async evaluate(rows: Rows, input: EvaluateInput = {}): Promise<Evaluated> {
    const { rows: count, tokens, scores } = await this.measure(rows, input, "evaluate()");
    return { ...(scores as Scores), rows: count, tokens };
  }

  /** Greedy answers to the rows' prompts, beside the answers that the rows hold. */
  async predict(rows: Rows, input: Omit<EvaluateInput, "metrics"> = {}): Promise<readonly TextPrediction[]> {
    const { predictions } = await this.measure(rows, { ...input, metrics: ["exact-match"] }, "predict()");
    return predictions ?? [];
  }

  /**
   * Attaches what trains, for a loop of your own. One session at a time; until it is disposed of, generate() answers
   * with what it has trained so far.
   */
  async session(input: SessionInput = {}): Promise<ModelSession> {
    const opened = this.open;
    if (this.training?.live)
      throw new UserError(`${this.name}: there is a session already; dispose of it before the next`);
    if (opened.adapter) {
      throw new UserError(
        `${this.name}: it was opened with an adapter; to train that one on, open the model without it and pass session({ initAdapter })`,
      );
    }
    this.training = await ModelSession.open(opened, this.name, this.method, input);
    return this.training;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.training?.[Symbol.asyncDispose]();
    await this.opened.close();
    this.backend.close();
  }

  private get open(): OpenedModel {
    if (this.closed) throw new UserError(`${this.name}: the model was disposed of`);
    return this.opened;
  }

  private async answer(promptIds: number[], input: GenerateInput, caller: string): Promise<Answer> {
    const { stop, onText, signal, ...rest } = input;
    const given = { ...rest, model: this.name, prompt: "-" };
    const options: GenerateOptions = resolveInput(generateDefinition, given, caller);
    const startedAt = performance.now();
    const { loaded, tokenizer } = this.open;
    const { text, tokenIds, finishReason } = await continueText(loaded.decoder, tokenizer, promptIds, {
      maxNewTokens: options.maxNewTokens,
      sampling: options,
      stop: stop === undefined ? [] : ([stop].flat() as string[]),
      onText,
      signal,
    });
    const seconds = (performance.now() - startedAt) / 1000;
    const tokensPerSecond = Math.round((100 * tokenIds.length) / seconds) / 100;
    return { text, tokenIds, finishReason, promptTokens: promptIds.length, tokensPerSecond };
  }

  private measure(rows: Rows, input: EvaluateInput, caller: string) {
    const { progress, onWarning, ...rest } = input;
    return withRows(rows, async (data) => {
      const options = resolveInput(evalDefinition, { ...rest, model: this.name, data }, caller);
      const text = await this.textWith(options.chatTemplate);
      return measure({ ...this.open, text }, options, { progress, warn: onWarning });
    });
  }

  private async textWith(chatTemplate: string | undefined): Promise<OpenedText> {
    const { text } = this.open;
    return chatTemplate === undefined ? text : openText({ ...text.sources, chatTemplate }, text);
  }
}
