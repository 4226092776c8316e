// A model that answers: the base on the device, and beside it, attached to no layer, the adapter of one finished run, so that
// answers with and without it come from one copy of the weights. Training closes it. Not here: generation (generate/).

import type { Backend } from "../../backend/backend.ts";
import { openBackend } from "../../backend/index.ts";
import { generateDefinition } from "../../config/generate-options.ts";
import { resolveInput } from "../../config/resolve.ts";
import { beginText } from "../../data/render.ts";
import { readAdapter } from "../../formats/peft.ts";
import { continueWith } from "../../generate/continue-text.ts";
import { GenerationEngine } from "../../generate/engine.ts";
import { type AdapterSet, loadAdapterSet } from "../../models/adapter-set.ts";
import { type OpenedModel, openModel } from "../../models/open-model.ts";
import { quantizeOnArrival } from "../../models/quantized-weights.ts";
import type { QuantizerName } from "../../quant/index.ts";
import { type OpenedText, openText } from "../../text/open-text.ts";
import { renderRequest } from "../../text/render-request.ts";
import { UserError } from "../../util/errors.ts";
import type { Answer, GenerateInput } from "../protocol.ts";

export interface VoiceChoice {
  readonly model: string;
  readonly backend: string;
  readonly precision: "auto" | "fp32" | "fp16";
  /** A finished run's adapter, and how it had the base. */
  readonly run?: { readonly out: string; readonly options: Readonly<Record<string, unknown>> };
}

const mostSlots = 20;

export class Voice {
  private constructor(
    readonly choice: VoiceChoice,
    private readonly backend: Backend,
    private readonly opened: OpenedModel,
    private readonly adapter?: { readonly set: AdapterSet; readonly text: OpenedText },
  ) {}

  static async open(choice: VoiceChoice): Promise<Voice> {
    const { model, run, precision } = choice;
    const backend = await openBackend(choice.backend, { precision });
    try {
      const given = run && (await readAdapter(run.out));
      const quantType = run?.options.quantType as QuantizerName | undefined;
      const quantize = run?.options.method === "qlora" ? quantizeOnArrival(backend, quantType) : undefined;
      const opened = await openModel(backend, model, { quantize, roomFor: given ? [given] : [] });
      if (!given) return new Voice(choice, backend, opened);
      const set = loadAdapterSet(opened.loaded.decoder, given, opened.vocabularySize);
      const text = await openText({ model, adapter: run.out }, opened.text);
      return new Voice(choice, backend, opened, { set, text });
    } catch (error) {
      backend.close();
      throw error;
    }
  }

  /** Answers in the order of the prompts, side by side. */
  async answer(
    prompts: readonly string[],
    { stop, chat = false, adapter, ...rest }: GenerateInput,
    onText: (index: number, piece: string) => void,
  ): Promise<Answer[]> {
    const options = resolveInput(generateDefinition, { ...rest, model: "-", prompt: "-" }, "generate()");
    const used = adapter === false ? undefined : this.adapter;
    const text = used?.text ?? this.opened.text;
    const ids = prompts.map((prompt) => {
      if (!chat) return beginText(text.tokenizer, prompt);
      if (!text.template)
        throw new UserError(
          "generate(): chat needs a chat template, and this model has none; leave chat out",
        );
      const rendered = renderRequest(text.template, [{ role: "user", content: prompt }], {});
      return text.tokenizer.encode(rendered, { addSpecialTokens: false });
    });
    if (ids.length === 0) return [];
    const engine = new GenerationEngine(this.opened.loaded.decoder, {
      slots: Math.min(mostSlots, ids.length),
      capacity: Math.max(...ids.map(({ length }) => length)) + options.maxNewTokens,
      vocabularySize: this.opened.vocabularySize,
    });
    try {
      return await Promise.all(
        ids.map(async (promptIds, index) => {
          const done = await continueWith((request) => engine.generate(request), text.tokenizer, promptIds, {
            ...{ maxNewTokens: options.maxNewTokens, sampling: options, adapter: used?.set },
            stop: stop === undefined ? [] : ([stop].flat() as string[]),
            onText: (piece) => onText(index, piece),
          });
          return { text: done.text, tokenIds: done.tokenIds, finishReason: done.finishReason };
        }),
      );
    } finally {
      await engine.close();
    }
  }

  async close(): Promise<void> {
    this.adapter?.set.free();
    await this.opened.close();
    this.backend.close();
  }
}
