// A mixture of experts: a router sends each token to a few of many gated MLPs, whose answers are summed by its weights.
// Shazeer et al. 2017, "Outrageously large neural networks"; Fedus et al. 2021. Gate and up of an expert are the rows of
// one matrix. Its ops are autograd/ops/experts.ts; what its files look like, formats/expert-layout.ts.

import {
  combineExperts,
  expertActivation,
  type GroupedSpec,
  groupedLinear,
  route,
  scaleByExpert,
} from "../../autograd/ops/experts.ts";
import { gateRows } from "../../autograd/ops/gate-rows.ts";
import { addScaled, gatedActivation } from "../../autograd/ops/layers.ts";
import { type Parameter, Tape, type Value } from "../../autograd/tape.ts";
import { applyLinears } from "../../nn/apply.ts";
import type { AdapterRows, ExpertLayer, Linear, PassContext } from "../../nn/module.ts";
import { rows } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { DecoderConfig, LayerConfig } from "../decoder-config.ts";
import type { BlockPass } from "../pass.ts";
import { blockPart, experts, linear, type PartsOf } from "./block-part.ts";

const width = (config: DecoderConfig) => config.width;
/** Of one expert's MLP. */
export const expertWidth = ({ experts, mlpWidth }: LayerConfig): number => experts?.width ?? mlpWidth;
const inner = (_: DecoderConfig, layer: LayerConfig) => expertWidth(layer);
const both = (_: DecoderConfig, layer: LayerConfig) => 2 * expertWidth(layer);
const count = (_: DecoderConfig, layer: LayerConfig) => layer.experts!.count;
const biased = (_: DecoderConfig, layer: LayerConfig) => layer.experts!.bias;
const sharedWidth = (_: DecoderConfig, layer: LayerConfig) => layer.experts!.sharedWidth ?? 0;
const isShared = (_: DecoderConfig, layer: LayerConfig) => layer.experts!.sharedWidth !== undefined;

const weights = {
  router: { ...linear("mlp.gate", "ffn_gate_inp", count, width), bias: biased, dense: true },
  gateUp: { ...experts("mlp.experts.gate_up_proj", "ffn_gate_up_exps", count, both, width), bias: biased },
  down: { ...experts("mlp.experts.down_proj", "ffn_down_exps", count, width, inner), bias: biased },
  // One more expert, which every token goes to, by a gate of its own.
  sharedGate: {
    ...linear("mlp.shared_expert.gate_proj", "ffn_gate_shexp", sharedWidth, width),
    present: isShared,
  },
  sharedUp: { ...linear("mlp.shared_expert.up_proj", "ffn_up_shexp", sharedWidth, width), present: isShared },
  sharedDown: {
    ...linear("mlp.shared_expert.down_proj", "ffn_down_shexp", width, sharedWidth),
    present: isShared,
  },
  sharedScore: {
    ...linear("mlp.shared_expert_gate", "ffn_gate_inp_shexp", () => 1, width),
    present: isShared,
  },
} as const;

type Parts = PartsOf<typeof weights>;

export const mixture = blockPart({
  weights,
  run(pass, x, parts, stream) {
    return throughExperts(pass, { x, asked: x, residual: withShared(pass, x, parts, stream) }, parts);
  },
  activations(config, layer) {
    const shared = layer.experts!.sharedWidth;
    return expertActivations(config, layer) + (shared === undefined ? 0 : 3 * shared + 1 + config.width);
  },
});

/** Floats a token: of each expert that it goes to, gate and up, their product, and the answer; and the router's numbers. */
export function expertActivations({ width: answer }: DecoderConfig, layer: LayerConfig): number {
  const { perToken, count: all } = layer.experts!;
  return perToken * (3 * expertWidth(layer) + answer) + all + 4 * perToken;
}

/** What goes through a mixture, [T, C] each. */
interface Through {
  readonly x: Value;
  /** What the router decides by. */
  readonly asked: Value;
  readonly residual?: Value;
}

interface ChosenParts {
  readonly router: Linear;
  readonly gateUp: ExpertLayer;
  readonly down: ExpertLayer;
  /** A number of each expert that multiplies its weight, [E]. */
  readonly scale?: Parameter;
}

/** The weighted answers of the experts that the router chooses, and the residual on top. */
export function throughExperts(pass: BlockPass, given: Through, parts: ChosenParts): Value {
  const { tape, options } = pass;
  const groups = options.context.adapterRows ?? [];
  const own = groups.filter(
    ({ layers, replaced }) =>
      layers.has(parts.gateUp.name) || layers.has(parts.down.name) || hasOwn(replaced, parts),
  );
  const few = given.x.shape[0]! <= tape.backend.rowsAlike.few;
  if (own.length === 0) return through(pass, tape, given, parts, few);
  return byRows(pass, given, parts, own, few);
}

/** The stream with what the shared expert adds to it, where there is one. */
function withShared(
  { tape, config, options: { context } }: BlockPass,
  x: Value,
  { sharedGate, sharedUp, sharedDown, sharedScore }: Parts,
  stream: Value | undefined,
): Value | undefined {
  if (!sharedGate || !sharedUp || !sharedDown || !sharedScore) return stream;
  const [gate, up, score] = applyLinears(tape, x, [sharedGate, sharedUp, sharedScore], context) as Three;
  const activated = gatedActivation(tape, config.activation, gate, up);
  const gated = gateRows(tape, score, applyLinears(tape, activated, [sharedDown], context)[0]!);
  return stream ? addScaled(tape, stream, gated, 1) : gated;
}

type Three = [Value, Value, Value];

const hasOwn = (replaced: AdapterRows["replaced"], { gateUp, down }: ChosenParts): boolean =>
  [...(replaced?.keys() ?? [])].some((name) =>
    [gateUp.name, down.name].some((own) => name.startsWith(`${own}.`)),
  );

/** All rows, by the experts as they are or with the one adapter of `context`'s only group. */
function through(
  { config, layer, index, options }: BlockPass,
  tape: Tape,
  { x, asked, residual }: Through,
  { router, gateUp, down, scale }: ChosenParts,
  few: boolean,
  context: PassContext = options.context,
): Value {
  invariant(layer.experts, "a mixture without experts");
  const { perToken, normalized, limit, alpha } = layer.experts;
  const [group] = context === options.context ? [] : (context.adapterRows ?? []);
  const [logits] = applyLinears(tape, asked, [router], context) as [Value];
  const routed = route(tape, logits, perToken, normalized);
  const routing = scale ? scaleByExpert(tape, routed, scale) : routed;
  options.routed?.(index, routing);
  context.observe?.experts(x, gateUp, routing, true);
  const h = groupedLinear(tape, x, routing, specOf(gateUp, group), { spread: true, few });
  const activated = expertActivation(tape, { activation: config.activation, limit, alpha }, h);
  context.observe?.experts(activated, down, routing, false);
  const z = groupedLinear(tape, activated, routing, specOf(down, group), { spread: false, few });
  return combineExperts(tape, z, routing, residual);
}

function specOf(layer: ExpertLayer, group: AdapterRows | undefined): GroupedSpec {
  const factors = group?.layers.get(layer.name);
  const weight = group?.replaced?.get(`${layer.name}.weight`);
  return {
    weight: weight ? { parameter: weight } : layer.weight,
    bias: group?.replaced?.get(`${layer.name}.bias`) ?? layer.bias,
    adapter: factors ?? layer.adapter,
  };
}

/** Inference with adapters of some rows: a pass for the rows of each, and one for each stretch between them. */
function byRows(
  pass: BlockPass,
  { x, asked, residual }: Through,
  parts: ChosenParts,
  groups: readonly AdapterRows[],
  few: boolean,
): Value {
  const { tape, options } = pass;
  invariant(!tape.recording, "adapters of single rows serve generation, not training");
  const y = tape.value(x.shape, false);
  const ends = groups.flatMap(({ start, end }) => [start, end]);
  const cuts = [...new Set([0, ...ends, x.shape[0]!])].sort((one, other) => one - other);
  tape.record({
    name: "mixtureByRows",
    inputs: [x, asked, ...(residual ? [residual] : [])],
    outputs: [y],
    forward() {
      const { backend } = tape;
      for (const [i, start] of cuts.slice(0, -1).entries()) {
        const end = cuts[i + 1]!;
        const mine = (options.context.adapterRows ?? [])
          .filter((group) => group.start <= start && end <= group.end)
          .map((group) => ({ ...group, start: 0, end: end - start }));
        using own = new Tape(backend, false);
        const part = (value: Value) => own.input(rows(value.data, start, end));
        const context = { ...options.context, adapterRows: mine };
        const taken = part(x);
        const given = {
          ...{ x: taken, asked: asked === x ? taken : part(asked), residual: residual && part(residual) },
        };
        const made = through(pass, own, given, parts, few, context);
        own.run([made]);
        backend.cast({ x: made.data, y: rows(y.data, start, end) });
      }
    },
  });
  return y;
}
