// A session on an open model: rows to batches, gradients, updates, measuring and saving, one call each, for training
// loops of one's own. Every step is the one that `train` makes (session/session.ts).

import type { InputOf } from "../config/define.ts";
import type { Method } from "../config/fields.ts";
import { resolveInput } from "../config/resolve.ts";
import { type TrainOptions, trainDefinition } from "../config/train-options.ts";
import { assemble, type Batch } from "../data/assemble.ts";
import { BatchPlan } from "../data/batches.ts";
import { loadDataset, refuseDroppedContent, refuseWithoutTargets } from "../data/dataset.node.ts";
import type { Dataset, DatasetReport } from "../data/dataset-report.ts";
import { toExamples } from "../data/index.ts";
import type { Sample } from "../data/render.ts";
import { prepareSamples } from "../data/sample-builder.ts";
import { lengthsOf } from "../data/samples.ts";
import { fetchData } from "../formats/fetch-named.ts";
import { readAdapter } from "../formats/peft.ts";
import type { OpenedModel } from "../models/open-model.ts";
import { type GradientResult, Session, type UpdateResult } from "../session/session.ts";
import { openText } from "../text/open-text.ts";
import { saveResult } from "../train/save-result.ts";
import { textOf } from "../train/setup.ts";
import { UserError } from "../util/errors.ts";
import type { Rows } from "./rows.ts";
import { withRows } from "./rows.ts";

type TrainFields = InputOf<typeof trainDefinition>;

/** What trains and how; the fields and defaults of `train`. */
export type SessionInput = Pick<
  TrainFields,
  | "adapter"
  | "rank"
  | "alpha"
  | "dropout"
  | "targets"
  | "init"
  | "exclude"
  | "layers"
  | "rankPattern"
  | "alphaPattern"
  | "modulesToSave"
  | "rslora"
  | "loraPlusRatio"
  | "neftuneAlpha"
  | "initAdapter"
  | "optimizer"
  | "beta1"
  | "beta2"
  | "epsilon"
  | "weightDecay"
  | "maxGradNorm"
  | "seed"
  | "chatTemplate"
  | "eosToken"
  | "padToken"
  | "trainOn"
  | "allow"
> & {
  /** Recompute activations in the backward pass: less memory, more time. */
  readonly gradientCheckpointing?: boolean;
};

export type BatchesInput = Pick<
  TrainFields,
  "batchSize" | "sequenceLength" | "overLength" | "packing" | "shuffle" | "seed"
> & {
  /** Passes over the rows; 1 unless given. */
  readonly epochs?: number;
};

export class ModelSession implements AsyncDisposable {
  /** False once it was disposed of. */
  live = true;

  private constructor(
    private readonly model: OpenedModel,
    private readonly session: Session,
    private readonly options: Pick<TrainOptions, "trainOn" | "maxGradNorm" | "allow">,
  ) {}

  /** Model.session() calls this. */
  static async open(
    model: OpenedModel,
    name: string,
    method: Method,
    input: SessionInput,
  ): Promise<ModelSession> {
    const { gradientCheckpointing: checkpointing, ...rest } = input;
    const given = { ...rest, method, model: name, data: "-", out: "-" };
    const options = resolveInput(trainDefinition, given, "session()");
    const initial = options.initAdapter === undefined ? undefined : await readAdapter(options.initAdapter);
    const text = await openText({ ...textOf(options), model: model.path }, model.text);
    const session = new Session(model.loaded, options, { initial, baseModel: name, checkpointing });
    await session.adapter?.initialize();
    return new ModelSession({ ...model, tokenizer: text.tokenizer, text }, session, options);
  }

  /** Parameters that train. */
  get trainableParameters(): number {
    return this.session.parameters.count;
  }

  /** Optimizer steps done. */
  get steps(): number {
    return this.session.steps;
  }

  /** Reads a file or a data set of the hub, for batches(). */
  async dataset(rows: Rows, input: BatchesInput = {}): Promise<Dataset<readonly Sample[]>> {
    const options = this.batchOptions(input);
    if (typeof rows === "string") await fetchData(rows);
    const dataset = await withRows(rows, (name) => loadDataset(name, { ...this.rendering(), ...options }));
    this.refuse(dataset.report);
    return { samples: [...dataset.samples], report: dataset.report };
  }

  /** Micro-batches of rows, or of a dataset(), in the order that `train` would take them. */
  *batches(rows: readonly object[] | Dataset, input: BatchesInput = {}): Generator<Batch, void, void> {
    const options = this.batchOptions(input);
    const { samples } = "samples" in rows ? rows : this.render(rows, options);
    const plan = new BatchPlan(lengthsOf(samples), options);
    const { epochs = 1 } = input;
    for (let epoch = 0; epoch < epochs; epoch++) {
      for (const batch of plan.epoch(epoch)) yield assemble(batch.map((index) => samples.at(index)!));
    }
  }

  /** Adds a micro-batch's gradient, or several's as of one batch, to those since the last step(). */
  async forwardBackward(batch: Batch | readonly Batch[]): Promise<GradientResult> {
    return this.open.forwardBackward(batch);
  }

  /** One update from the gradients since the last; nothing is updated where they are not finite. */
  async step(input: { readonly learningRate: number; readonly maxGradNorm?: number }): Promise<UpdateResult> {
    const { learningRate, maxGradNorm = this.options.maxGradNorm } = input;
    if (!(learningRate >= 0 && Number.isFinite(learningRate)))
      throw new UserError(`step(): learningRate: expected a number of at least 0; got ${learningRate}.`);
    return this.open.step({ learningRate, maxGradNorm });
  }

  /** Mean loss, in nats a target token, without dropout or gradients. */
  async evaluate(
    rows: readonly object[] | Dataset,
    input: BatchesInput = {},
  ): Promise<{ readonly loss: number; readonly perplexity: number; readonly tokens: number }> {
    const options = this.batchOptions(input);
    const { samples } = "samples" in rows ? rows : this.render(rows, options);
    const tokensPerPass = options.batchSize * options.sequenceLength;
    const { loss, targetTokens } = await this.open.evaluate(samples, tokensPerPass);
    return { loss, perplexity: Math.exp(loss), tokens: targetTokens };
  }

  /** Writes the adapter in PEFT layout, or after full training the whole model folder. */
  async save(folder: string): Promise<void> {
    const { parameters, adapter } = this.open;
    await saveResult({ model: this.model, parameters, adapter }, folder);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.live) return;
    this.live = false;
    this.session[Symbol.dispose]();
  }

  private get open(): Session {
    if (!this.live) throw new UserError("the session was disposed of");
    return this.session;
  }

  private batchOptions(input: BatchesInput) {
    const { epochs: _, ...rest } = input;
    const given = { ...rest, model: "-", data: "-", out: "-" };
    const { batchSize, sequenceLength, overLength, packing, shuffle, seed } = resolveInput(
      trainDefinition,
      given,
      "batches()",
    );
    return { batchSize, sequenceLength, overLength, packing, shuffle, seed };
  }

  private rendering() {
    const { tokenizer, template } = this.model.text;
    return { tokenizer, template, trainOn: this.options.trainOn };
  }

  private render(rows: readonly object[], options: ReturnType<ModelSession["batchOptions"]>): Dataset {
    const {
      rows: examples,
      format,
      ignoredKeys,
    } = toExamples(
      rows.map((value, i) => ({
        id: { file: "rows", line: i + 1, unit: "row" },
        value: value as Readonly<Record<string, unknown>>,
      })),
    );
    const origin = { file: "rows", dataHash: "", format: format.name, ignoredKeys };
    const dataset = prepareSamples(examples, { ...this.rendering(), ...options }, origin);
    this.refuse(dataset.report);
    return dataset;
  }

  private refuse(report: DatasetReport): void {
    refuseWithoutTargets(report);
    if (!this.options.allow?.includes("dropped-content")) refuseDroppedContent(report);
  }
}
