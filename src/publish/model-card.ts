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
  const hashes = provenance(run?.chain).flatMap(([label, hash]) => row(label, hash));
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
    ...table("SHA-256 of what it was made of", hashes),
  ].join("\n")}\n`;
}

/** Files of the chain by what they are to the run, without where they lay. */
function provenance(chain: unknown): [label: string, hash: string][] {
  if (!isJsonObject(chain) || !Array.isArray(chain.sources) || !Array.isArray(chain.outputs)) return [];
  const filesOf = (parts: readonly unknown[], chosen: (role: string) => string | undefined) =>
    parts.flatMap((part): [string, string][] => {
      if (!isJsonObject(part) || typeof part.role !== "string" || !Array.isArray(part.files)) return [];
      const before = chosen(part.role);
      if (before === undefined) return [];
      return part.files.flatMap((file): [string, string][] =>
        isJsonObject(file) && typeof file.name === "string" && typeof file.sha256 === "string"
          ? [[`${before}${file.name}`, file.sha256]]
          : [],
      );
    });
  const self = typeof chain.self === "string" ? chain.self.replace(/^sha256:/, "") : undefined;
  return [
    ...filesOf(chain.outputs, (role) => (role === "result" ? "" : undefined)),
    ...filesOf(chain.sources, (role) => `${role}: `),
    ...(self === undefined ? [] : [["run.json", self] satisfies [string, string]]),
  ];
}
