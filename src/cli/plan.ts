// `lowrank plan`: prints the plan of a shape: what it takes, what fits, how long and how much; with --explain, the
// derivation. Not here: any of the counting (plan/).

import { planDefinition } from "../config/plan-options.ts";
import type { ExplainedLine } from "../plan/explain.ts";
import type { MethodPlan } from "../plan/memory-plan.ts";
import type { Plan } from "../plan/plan.ts";
import type { Estimate } from "../plan/time-cost.ts";
import { defineCommand } from "./command.ts";
import { formatBytes, formatCount, formatDuration, formatRate, formatTable } from "./format.ts";
import { exitCodes, type Terminal } from "./terminal.ts";

export const command = defineCommand(planDefinition, async (options, terminal) => {
  const { planWith } = await import("../library/estimate.ts");
  const plan = await planWith(options, (message) => terminal.note(message));
  if (terminal.json) terminal.document(plan);
  else {
    tellPlan(plan, terminal);
    if (plan.explain) tellDerivation(plan.explain, terminal);
  }
  return exitCodes.done;
});

function tellPlan(plan: Plan, terminal: Terminal): void {
  const { model } = plan;
  const bold = (text: string) => terminal.style("bold", text);
  terminal.print(
    `${bold(model.name)}: ${model.modelType}, ${model.parameters.toLocaleString("en-US")} parameters${activeOf(model)}, ${model.layers} layers of width ${model.width}`,
  );
  terminal.print(
    `${plan.batchSize} x ${plan.sequenceLength} tokens a micro-batch; adapters of rank ${plan.rank} on ${plan.targets}\n`,
  );
  terminal.print(`${bold("Trainable parameters")} by target and rank`);
  const ranks = Object.keys(plan.trainable[0]!.parameters);
  terminal.print(
    formatTable(
      ["targets", ...ranks.map((rank) => `rank ${rank}`)],
      plan.trainable.map(({ targets, parameters }) => [
        targets,
        ...ranks.map((rank) => formatCount(parameters[rank]!)),
      ]),
    ),
  );
  terminal.print(`\n${bold("Device memory")} at the peak of a step, by category (activations recomputed)`);
  terminal.print(ledgerTable(plan.methods));
  terminal.print(`\n${bold("The same in every variant")}${limitText(plan)}`);
  terminal.print(variantTable(plan));
  for (const { title, largest } of plan.methods) {
    if (!largest) continue;
    const most =
      largest.batchSize === 0
        ? "nothing fits at this length"
        : `batch ${largest.batchSize} at ${plan.sequenceLength} tokens, or length ${largest.sequenceLength} at batch 1${largest.sequenceLength + 64 > plan.model.maxPositions ? " (all of the model's positions)" : ""}`;
    terminal.print(`  largest for ${title}: ${most}`);
  }
  tellServing(plan, terminal);
  tellEstimates(plan, terminal);
  tellRanks(plan, terminal);
}

function tellServing({ serving, limit }: Plan, terminal: Terminal): void {
  const { slots, context, tokenBytes, weights } = serving;
  if (weights.length === 0) return;
  terminal.print(`\n${terminal.style("bold", "Serving")}: keys and values beside the weights (--kv-type)`);
  const types = Object.entries(tokenBytes);
  const all = `${slots} slots of ${context}`;
  terminal.print(
    formatTable(
      ["", ...types.map(([type]) => type)],
      [
        ["a token", ...types.map(([, bytes]) => formatBytes(bytes))],
        [all, ...types.map(([, bytes]) => formatBytes(slots * context * bytes))],
        ...weights.flatMap(({ title, tokens }) =>
          tokens
            ? [[`tokens beside ${title}`, ...types.map(([type]) => formatCount(tokens[type as "f32"]!))]]
            : [],
        ),
      ],
    ),
  );
  const [{ passBytes }] = weights as [(typeof weights)[0]];
  terminal.print(
    `  a pass takes up to ${formatBytes(passBytes)} more${limit ? `, which is left out of ${formatBytes(limit.bytes)} with the weights` : ""}`,
  );
}

function tellRanks({ ranks, methods }: Plan, terminal: Terminal): void {
  if (!ranks) return;
  const several = ranks.microBatches === 1 ? "micro-batch" : "micro-batches";
  terminal.print(
    `\n${terminal.style("bold", "Several ranks")}${ranks.network === undefined ? "" : ` over ${ranks.network}`}, ${ranks.microBatches} ${several} of each in a step`,
  );
  const rows = methods.flatMap(({ name, title }) =>
    ranks.methods[name]!.map((row) => [
      title,
      String(row.ranks),
      formatBytes(row.memoryBytes),
      formatBytes(row.shardedMemoryBytes),
      bytesOrDash(row.bytesPerStep),
      row.ranks === 1 || row.exchangeSeconds === undefined ? "-" : formatDuration(1000 * row.exchangeSeconds),
      row.efficiency === undefined ? "" : `${(100 * row.efficiency).toFixed(1)}%`,
      row.tokensPerSecond === undefined ? "" : formatRate(row.tokensPerSecond),
      row.breaksFirst ?? "",
    ]),
  );
  const titles = ["method", "ranks", "memory", "in shares", "sent a step", "exchange", "efficiency"];
  terminal.print(formatTable([...titles, "tokens/s", "breaks first"], rows));
  for (const assumption of ranks.assumptions) terminal.print(`  - ${assumption}`);
}

function limitText({ limit, methods }: Plan): string {
  const onCard = methods[0]?.variants[0]?.deviceBytes !== undefined;
  const what = onCard ? ", as the CUDA backend asks for it, gaps and scratch included" : "";
  return what + limitOnly(limit);
}

function limitOnly(limit: Plan["limit"]): string {
  return limit ? `; + fits in ${formatBytes(limit.bytes)} (${limit.source}), - does not` : "";
}

function ledgerTable(methods: readonly MethodPlan[]): string {
  const categories = Object.keys(
    methods[0]!.variants[0]!.ledger.atPeak,
  ) as (keyof MethodPlan["variants"][0]["ledger"]["atPeak"])[];
  const rows = methods.map(({ title, variants, trainableParameters }) => {
    const { ledger, peakBytes } = variants.find(({ checkpointing }) => checkpointing)!;
    return [
      title,
      formatCount(trainableParameters),
      ...categories.map((category) => bytesOrDash(ledger.atPeak[category])),
      formatBytes(peakBytes),
    ];
  });
  return formatTable(["method", "trains", ...categories, "total"], rows);
}

function bytesOrDash(bytes: number): string {
  return bytes === 0 ? "-" : formatBytes(bytes);
}

function variantTable({ methods, limit }: Plan): string {
  const titles = methods[0]!.variants.map(({ checkpointing, optimizer, paged }) =>
    [checkpointing ? "recompute" : "keep", optimizer, ...(paged ? ["paged"] : [])].join(" "),
  );
  const rows = titles.map((title, i) => [
    title,
    ...methods.map(({ variants }) => {
      const { peakBytes, deviceBytes, fits } = variants[i]!;
      return `${formatBytes(deviceBytes ?? peakBytes)}${limit ? (fits ? " +" : " -") : ""}`;
    }),
  ]);
  return formatTable(["activations, optimizer", ...methods.map(({ title }) => title)], rows);
}

function tellEstimates(plan: Plan, terminal: Terminal): void {
  const rows = plan.methods.flatMap(({ name, title }) =>
    (plan.estimates[name] ?? []).map((estimate) => [title, ...estimateCells(estimate)]),
  );
  if (rows.length === 0) {
    terminal.print(
      "\nFor time and cost, add --probe (this machine) or --gpu NAME, and --tokens N or --data F.",
    );
    return;
  }
  const budget = plan.work
    ? ` for ${formatCount(plan.work.tokens)} tokens (${plan.work.source})`
    : "; --tokens N or --data F give totals";
  terminal.print(`\n${terminal.style("bold", "Time and cost")}${budget}`);
  terminal.print(formatTable(["method", "rate", "FLOP/token", "tokens/s", "time", "cost"], rows));
  const assumptions = new Set(
    Object.values(plan.estimates).flatMap((estimates) => estimates.flatMap((one) => one.assumptions)),
  );
  for (const assumption of assumptions) terminal.print(`  - ${assumption}`);
}

function estimateCells({ rate, flopsPerToken, tokensPerSecond, seconds, cost }: Estimate): string[] {
  return [
    rate,
    `${(flopsPerToken / 1e9).toPrecision(3)}G`,
    formatRate(tokensPerSecond),
    seconds === undefined ? "" : formatDuration(1000 * seconds),
    cost === undefined ? "" : `$${cost.toFixed(2)}`,
  ];
}

function tellDerivation(lines: readonly ExplainedLine[], terminal: Terminal): void {
  let section = "";
  for (const line of lines) {
    if (line.section !== section) {
      section = line.section;
      terminal.print(`\n${terminal.style("bold", section)}`);
    }
    const published = line.published === undefined ? "" : `   published: ${line.published}`;
    terminal.print(`  ${line.what} = ${terminal.style("cyan", line.ours)}${published}`);
    terminal.print(`      ${line.derivation}`);
  }
}

/** Of a mixture, the parameters that one token meets. */
function activeOf({ parameters, activeParameters }: Plan["model"]): string {
  return activeParameters < parameters ? ` (${activeParameters.toLocaleString("en-US")} active)` : "";
}
