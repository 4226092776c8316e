// What `lowrank plan` says of a form's values: memory of every method, by category, beside what this machine has. Reads
// no weights and fetches nothing. In the analysing process only.

import { planDefinition } from "../config/plan-options.ts";
import { resolveInput } from "../config/resolve.ts";
import { machineMemory } from "../memory/machine-memory.ts";
import type { MethodPlan } from "../plan/memory-plan.ts";
import { makePlan, readInputs } from "../plan/plan.ts";
import { flopsPerToken } from "../plan/time-cost.ts";
import type { PlanView } from "./api.ts";
import { atField } from "./run-form.ts";

export interface PlanJob {
  readonly values: Readonly<Record<string, unknown>>;
}

/** Of train's options, those that plan has too and that mean the same there. */
const shared: readonly string[] = [
  ..."model rank targets dropout adapter alpha init exclude layers rankPattern alphaPattern".split(" "),
  ..."modulesToSave rslora batchSize sequenceLength optimizer quantType objective paged backend".split(" "),
];

export async function viewPlan({ values }: PlanJob): Promise<PlanView> {
  const given = Object.fromEntries(shared.flatMap((key) => (key in values ? [[key, values[key]]] : [])));
  const options = atField(() => resolveInput(planDefinition, given, "form"));
  const notes: string[] = [];
  const inputs = await readInputs(options);
  const plan = await makePlan(inputs, 0, (message) => notes.push(message));
  const method = ["lora", "qlora", "full"].find((one) => one === values.method) ?? "lora";
  const { availableBytes } = machineMemory();
  const chosen = plan.methods.findLast((one) => one.method === method)!;
  return {
    model: pick(plan.model),
    batchSize: plan.batchSize,
    sequenceLength: plan.sequenceLength,
    rank: plan.rank,
    availableBytes,
    methods: plan.methods.map((one) => {
      const { peakBytes, ledger } = variantOf(one, values);
      return {
        ...{ name: one.name, title: one.title, chosen: one === chosen },
        trainableParameters: one.trainableParameters,
        ...{ peakBytes, atPeak: { ...ledger.atPeak }, fits: peakBytes <= availableBytes },
      };
    }),
    flopsPerToken: flopsPerToken(inputs.shape, chosen.method, {
      ...inputs.options,
      checkpointing: values.gradientCheckpointing === "on",
    }),
    notes,
  };
}

function variantOf({ variants }: MethodPlan, values: PlanJob["values"]): MethodPlan["variants"][number] {
  const recomputes = values.gradientCheckpointing === "on";
  const optimizer = values.optimizer ?? "adamw";
  const paged = values.paged === true;
  return (
    variants.find(
      (one) => one.checkpointing === recomputes && one.optimizer === optimizer && one.paged === paged,
    ) ?? variants[0]!
  );
}

function pick({ name, modelType, parameters, layers, width }: PlanView["model"]): PlanView["model"] {
  return { name, modelType, parameters, layers, width };
}
