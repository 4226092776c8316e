// The README.md of an adapter on the hub, made from the run.json that training left: what it was trained from, how,
// and what came out. It says nothing that the record does not.

import { isJsonObject, type JsonObject } from "../formats/json.ts";
import type { AdapterConfig } from "../formats/peft.ts";

export function modelCard(name: string, config: AdapterConfig, run: JsonObject | undefined): string {
  const options = isJsonObject(run?.options) ? run.options : {};
  const final = isJsonObject(run?.final) ? run.final : {};
  // A base that is a path on somebody's disk means nothing to others.
  const base = [config.baseModel, options.model].find(
    (value): value is string => typeof value === "string" && /^[\w][\w.-]*\/[\w.-]+$/.test(value),
  );
  const front = [
    "---",
    ...(base === undefined ? [] : [`base_model: ${base}`]),
    "library_name: peft",
    "pipeline_tag: text-generation",
    "tags:",
    "- lora",
    "- lowrank",
    "---",
  ];
  const row = (label: string, value: unknown): string[] =>
    typeof value === "string" || typeof value === "number" || typeof value === "boolean"
      ? [`| ${label} | ${String(value).replaceAll("|", "\\|").replaceAll("\n", " ")} |`]
      : [];
  const best = isJsonObject(run?.best) ? run.best : undefined;
  const forgettingRows = (found: unknown) => {
    if (!isJsonObject(found) || !isJsonObject(found.before) || !isJsonObject(found.after)) return [];
    const { before, after } = found;
    return [
      ...row("perplexity on other rows, before training", before.perplexity),
      ...row("perplexity on other rows, after", after.perplexity),
      ...(after.lost === undefined
        ? []
        : [
            ...row("of their prompts answered right before", `${before.right} of ${before.prompts}`),
            ...row("of these wrong after (forgotten)", after.lost),
            ...row("wrong before and right after", after.gained),
          ]),
    ];
  };
  const targets = typeof config.targets === "string" ? config.targets : config.targets.join(", ");
  const training = [
    ...row("method", options.method),
    ...row("adapter", config.kind),
    ...row("rank", config.rank),
    ...row("alpha", config.alpha),
    ...row("rank-stabilised scale", config.rslora),
    ...row("dropout", config.dropout),
    ...row("targets", targets),
    ...row("learning rate", options.learningRate),
    ...row("schedule", options.schedule),
    ...row("optimizer", options.optimizer),
    ...row("micro-batch", options.batchSize),
    ...row("gradient accumulation", options.gradientAccumulation),
    ...row("sequence length", options.sequenceLength),
    ...row("seed", options.seed),
    ...row("trainable parameters", run?.trainableParameters),
    ...row("steps", final.steps),
    ...row("tokens", final.tokens),
    ...row("device", run?.device),
    ...row("precision", run?.precision),
  ];
  const results = [
    ...row("training loss at the end", final.loss),
    ...row("evaluation loss", final.evalLoss),
    ...row("evaluation perplexity", final.perplexity),
    ...(best
      ? [...row("step of these weights, the best", best.step), ...row(`its ${best.metric}`, best.value)]
      : []),
    ...(Array.isArray(run?.averagedSteps) ? row("mean of the steps", run.averagedSteps.join(", ")) : []),
    ...forgettingRows(run?.forgetting),
  ];
  const table = (title: string, rows: readonly string[]) =>
    rows.length === 0 ? [] : ["", `## ${title}`, "", "| | |", "|---|---|", ...rows];
  const version = typeof run?.lowrank === "string" ? ` ${run.lowrank}` : "";
  return `${[
    ...front,
    "",
    `# ${name}`,
    "",
    `A LoRA adapter${base === undefined ? "" : ` for [${base}](https://huggingface.co/${base})`}, trained with lowrank${version}. PEFT loads it as it is.`,
    ...table("Training", training),
    ...table("Results", results),
  ].join("\n")}\n`;
}
