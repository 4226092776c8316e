// The backward pass of linear layers with adapters on a card: du = scale dy B; dx (+)= dy W + dropout'(du A); dA += du^T dropout(x);
// dB += scale dy^T u; dW += dy^T x; dBias += the sums of dy. du A is a second term of the product with W where nothing drops out.
// A frozen weight costs its product with dy and nothing else. Not here: the forward pass (linear.ts), products (products.ts).

import type { Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { PlainLinearGradPart } from "../backend.ts";
import { addColumnSums } from "./columns.ts";
import type { CudaGpu } from "./gpu.ts";
import {
  adapterGroups,
  addressAt,
  checkAdapter,
  columnsOf,
  drops,
  operandType,
  rankOf,
  widthOf,
} from "./linear-adapters.ts";
import {
  addressOf,
  checkMatrix,
  operandBytes,
  Packing,
  type Scratch,
  withScratchOf,
} from "./product-operands.ts";
import type { Operand, Term } from "./product-types.ts";
import { multiply, multiplyWeight, sumSlices } from "./products.ts";

type GradAdapter = NonNullable<PlainLinearGradPart["adapter"]>;

/** What a call is about. */
interface Call {
  readonly gpu: CudaGpu;
  readonly scratch: Scratch;
  readonly packing: Packing;
  readonly x: Tensor | undefined;
  readonly dx: Tensor | undefined;
  readonly tokens: number;
  readonly inputs: number;
}

/** A part with its operands packed. */
interface Packed {
  readonly part: PlainLinearGradPart;
  /** dy, where a product needs it. */
  readonly dy?: Operand;
  /** scale * u, B, A, and where scale * dy B goes. */
  readonly u?: Operand;
  readonly b?: Operand;
  readonly a?: Operand;
  readonly du?: Operand;
}

/** Adapters whose dA are one product: x as it is for these, and du of all of them side by side. */
interface Across {
  readonly group: readonly GradAdapter[];
  readonly x?: Operand;
  readonly du: Operand;
}

function checkParts({ gpu, x, dx, tokens, inputs }: Call, parts: readonly PlainLinearGradPart[]): void {
  if (x) addressOf(gpu, x, tokens * inputs, "x");
  if (dx) addressOf(gpu, dx, tokens * inputs, "dx");
  for (const { weight, dy, adapter, dWeight, dBias } of parts) {
    const [outputs, columns] = weight.shape as readonly [number, number];
    invariant(columns === inputs, `linearBackward: weights of ${inputs} and of ${columns} inputs`);
    checkMatrix(gpu, weight);
    addressOf(gpu, dy, tokens * outputs, "dy");
    if (adapter) checkAdapter(gpu, adapter, tokens, weight.shape);
    if (dWeight) addressOf(gpu, dWeight, outputs * inputs, "dWeight");
    if (dBias) addressOf(gpu, dBias, outputs, "dBias");
    invariant(x || (!dWeight && !adapter?.dA), "linearBackward: dA and dWeight need x");
  }
}

/** Packs x for the weights' gradients, and for each group's dA; gives every group room for its du. */
function packInputs(
  call: Call,
  adapters: readonly GradAdapter[],
  needsX: boolean,
): { xs?: Operand; across: Across[] } {
  const { gpu, scratch, packing, x, tokens, inputs } = call;
  const groups = adapterGroups(adapters);
  const wanted = (group: readonly GradAdapter[]) => group.some(({ dA }) => dA);
  const plain = needsX || groups.some((group) => !drops(group[0]!) && wanted(group));
  const xs = x && plain ? packing.rows(x, tokens, inputs) : undefined;
  const across = groups.map((group) => {
    const pitch = columnsOf(group).at(-1)!;
    const du = { address: scratch.take(operandBytes(gpu) * tokens * pitch), pitch };
    if (!wanted(group)) return { group, du };
    const { dropout } = group[0]!;
    return { group, du, x: drops(group[0]!) ? packing.rows(x!, tokens, inputs, { dropout }) : xs };
  });
  return { xs, across };
}

function packPart(call: Call, part: PlainLinearGradPart, across: readonly Across[]): Packed {
  const { gpu, packing, dx, tokens, inputs } = call;
  const { weight, dy, adapter, dWeight } = part;
  const outputs = weight.shape[0]!;
  const needsDu = adapter && (adapter.dA || dx);
  const needsDy = dx || dWeight || adapter?.dB || needsDu;
  const packedDy = needsDy ? packing.rows(dy, tokens, outputs) : undefined;
  if (!adapter) return { part, dy: packedDy };
  const rank = rankOf(adapter);
  const own = across.find(({ group }) => group.includes(adapter));
  const column = own && columnsOf(own.group)[own.group.indexOf(adapter)]!;
  return {
    part,
    dy: packedDy,
    u: adapter.dB && packing.rows(adapter.u, tokens, rank, { factor: adapter.scale }),
    b: needsDu ? packing.rows(adapter.b, outputs, rank) : undefined,
    a: dx && packing.rows(adapter.a, rank, inputs),
    du: own && { address: own.du.address + operandBytes(gpu) * column!, pitch: own.du.pitch },
  };
}

/** du = scale dy B, packed beside the others of its group. */
function multiplyDu({ gpu, tokens }: Call, { part, dy, b, du }: Packed): void {
  const adapter = part.adapter!;
  const rank = rankOf(adapter);
  withScratchOf(gpu, (scratch) => {
    const terms = [{ a: dy!, b: b!, k: part.weight.shape[0]! }];
    const sums = sumSlices(gpu, scratch, { form: "input", m: tokens, n: rank }, terms);
    gpu.launch("productReduceParts", [Math.ceil((tokens * widthOf(adapter)) / 256), 1], {
      partials: sums.address,
      target: [],
      packed: [du!.address],
      first: [0],
      count: [rank],
      wide: [widthOf(adapter)],
      pitch: [du!.pitch],
      factor: [adapter.scale],
      slices: sums.slices,
      m: tokens,
      n: rank,
      alongRows: 0,
      accumulate: 0,
      packedType: operandType(gpu),
    });
  });
}

/** dA += du^T x of a group's adapters. */
function addAdapterInputs({ gpu, tokens, inputs }: Call, { group, x, du }: Across): void {
  if (!x) return;
  const first = columnsOf(group);
  const m = first.at(-1)!;
  withScratchOf(gpu, (scratch) => {
    const sums = sumSlices(gpu, scratch, { form: "weight", m, n: inputs }, [{ a: du, b: x, k: tokens }]);
    gpu.launch(
      "productReduceParts",
      [Math.ceil((Math.max(...group.map(rankOf)) * inputs) / 256), group.length],
      {
        partials: sums.address,
        target: group.map(({ dA }) => dA),
        packed: [],
        first: first.slice(0, -1),
        count: group.map(rankOf),
        wide: [],
        pitch: [],
        factor: [],
        slices: sums.slices,
        m,
        n: inputs,
        alongRows: 1,
        accumulate: 1,
        packedType: 0,
      },
    );
  });
}

/** dx (+)= dy W + dropout'(du A). */
function addInputs(
  { gpu, dx, tokens, inputs }: Call,
  { part, dy, a, du }: Packed,
  accumulate: boolean,
): void {
  const { weight, adapter } = part;
  const result = { c: addressAt(dx!), ldc: inputs, accumulate };
  const through: Term | undefined = adapter && { a: du!, b: a!, k: rankOf(adapter) };
  const masked = adapter !== undefined && drops(adapter);
  const extra = masked ? undefined : through;
  multiplyWeight(gpu, { form: "input", rows: tokens, a: dy!, weight, extra, result });
  if (!masked) return;
  const { dropout } = adapter;
  multiply(gpu, { form: "input", m: tokens, n: inputs }, [through!], {
    ...result,
    accumulate: true,
    dropout,
  });
}

/** dWeight, dBias and dB of a part. */
function addWeights({ gpu, tokens, inputs }: Call, { part, dy, u }: Packed, xs: Operand | undefined): void {
  const { dWeight, dBias, adapter } = part;
  const outputs = part.weight.shape[0]!;
  if (dBias) addColumnSums(gpu, part.dy, dBias, {});
  if (dWeight) {
    const result = { c: addressAt(dWeight), ldc: inputs, accumulate: true };
    multiply(gpu, { form: "weight", m: outputs, n: inputs }, [{ a: dy!, b: xs!, k: tokens }], result);
  }
  if (adapter?.dB) {
    const rank = rankOf(adapter);
    const result = { c: addressAt(adapter.dB), ldc: rank, accumulate: true };
    multiply(gpu, { form: "weight", m: outputs, n: rank }, [{ a: dy!, b: u!, k: tokens }], result);
  }
}

export function linearBackward(
  gpu: CudaGpu,
  x: Tensor | undefined,
  parts: readonly PlainLinearGradPart[],
  dx: Tensor | undefined,
  accumulate: boolean,
): void {
  const first = parts[0];
  if (!first) return;
  const tokens = first.dy.shape[0]!;
  withScratchOf(gpu, (scratch) => {
    const packing = new Packing(gpu, scratch);
    const call = { gpu, scratch, packing, x, dx, tokens, inputs: first.weight.shape[1]! };
    checkParts(call, parts);
    if (tokens === 0) return;
    const adapters = parts.flatMap(({ adapter }) => (adapter && (adapter.dA || dx) ? [adapter] : []));
    const { xs, across } = packInputs(
      call,
      adapters,
      parts.some(({ dWeight }) => dWeight),
    );
    const packed = parts.map((part) => packPart(call, part, across));
    packing.run();
    for (const each of packed) if (each.b) multiplyDu(call, each);
    for (const [i, each] of packed.entries()) {
      addWeights(call, each, xs);
      if (dx) addInputs(call, each, accumulate || i > 0);
    }
    for (const group of across) addAdapterInputs(call, group);
  });
}
