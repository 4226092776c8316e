// Launches of adapter-gradients.wgsl: gradients of the factors of layers that share an input, as few as the device's bindings
// and the gradients' memory allow: one where they all lie in one buffer, as a session keeps them.

import { elementCount, type Tensor } from "../../tensor/tensor.ts";
import { invariant } from "../../util/errors.ts";
import type { PlainLinearGradPart } from "../backend.ts";
import { f32, type Operand, operand } from "./commands.ts";
import type { Gpu } from "./gpu.ts";
import { packedLayout } from "./project-rows.ts";
import type { ShaderSource } from "./shaders.ts";

/** A layer, and the rank of its adapter; 0: it is passed over. */
type Part = PlainLinearGradPart & { readonly rank: number };

export interface AdapterGradients {
  readonly x: Tensor | undefined;
  readonly inputs: number;
  readonly tokens: number;
  /** f32 [tokens, ldu]: the parts' own columns side by side, `rank` each. */
  readonly du: Operand;
  readonly ldu: number;
  /** Three at most. */
  readonly parts: readonly Part[];
  /** The parts' dys packed one after another (projectRows); absent: they are read as f32. */
  readonly packed?: Operand;
}

/** One wanted gradient. */
interface Want {
  readonly part: number;
  readonly of: "dA" | "dB";
  readonly grad: Tensor;
}

const columnsPerGroup = 64;
const ranksPerGroup = 8;

export function adapterGradients(gpu: Gpu, work: AdapterGradients): void {
  const wants = work.parts.flatMap(({ adapter, rank }, part) =>
    (["dB", "dA"] as const).flatMap((of): Want[] => {
      const grad = rank > 0 ? adapter?.[of] : undefined;
      return grad ? [{ part, of, grad }] : [];
    }),
  );
  // Gradients in one buffer are bound as one range.
  const blocks = new Map<unknown, Want[]>();
  for (const want of wants) {
    const { block } = gpu.memory.of(want.grad.buffer);
    blocks.set(block, [...(blocks.get(block) ?? []), want]);
  }
  for (const together of blocks.values()) {
    for (const group of fitting(gpu, work, together)) launch(gpu, work, group);
  }
}

/** Groups of gradients whose span fits a binding. */
function fitting(gpu: Gpu, work: AdapterGradients, wants: readonly Want[]): Want[][] {
  // Of layers in f32 two fit a launch's bindings.
  const parts = work.packed && aligned(work) ? [[0, 1, 2]] : [[0, 1], [2]];
  const groups = parts.map((some) => wants.filter(({ part }) => some.includes(part)));
  return groups.flatMap((group) => {
    if (group.length === 0) return [];
    const { sizeBytes } = spanOf(group);
    return sizeBytes <= gpu.commands.bindingLimit - 256 ? [group] : group.map((want) => [want]);
  });
}

function spanOf(wants: readonly Want[]): Operand {
  const start = Math.min(...wants.map(({ grad }) => grad.byteOffset));
  const end = Math.max(...wants.map(({ grad }) => grad.byteOffset + 4 * elementCount(grad.shape)));
  return { buffer: wants[0]!.grad.buffer, byteOffset: start, sizeBytes: end - start };
}

function isQuads(tensor: Tensor): boolean {
  return tensor.byteOffset % 16 === 0 && tensor.shape[1]! % 4 === 0;
}

function aligned({ x, parts }: AdapterGradients): boolean {
  return (!x || isQuads(x)) && parts.every(({ dy }) => isQuads(dy));
}

function launch(gpu: Gpu, work: AdapterGradients, wants: readonly Want[]): void {
  const { x, inputs, tokens, du, ldu, parts } = work;
  const quads = aligned(work);
  const packed = quads ? work.packed : undefined;
  invariant(x || wants.every(({ of }) => of === "dB"), "linearBackward: dA needs x");
  const { nothing } = gpu.commands;
  const grads = spanOf(wants);
  // In f32 the third layer takes the first one's place in its launch.
  const first = packed || wants[0]!.part < 2 ? 0 : 2;
  const shown = [0, 1, 2].map((i): Part | undefined => parts[first + i]);
  const orNothing = (tensor: Tensor | undefined) => (tensor ? operand(tensor) : nothing);
  const us = shown.map((part) => orNothing(part && part.rank > 0 ? part.adapter?.u : undefined));
  const unit = { unit: quads ? 16 : 4 };
  const dys = shown.map((part) => ({ ...orNothing(part?.dy), ...unit }));
  const wide = packed ? [packed, ...us] : [dys[0]!, us[0]!, dys[1]!, us[1]!];
  const file: ShaderSource = packed ? "gradients-packed" : quads ? "gradients-f32-vec4" : "gradients-f32";
  const pipeline = gpu.pipelines.get(`adapter-gradients ${file}`, () => ({
    files: ["gradients-params", file, "adapter-gradients"],
    offsetWords: 8,
  }));
  let bits = 0;
  let tiles = 0;
  const places = new Map<string, number>();
  for (const { part, of, grad } of wants) {
    bits |= 1 << (part - first + (of === "dA" ? 4 : 0));
    const width = of === "dA" ? inputs : parts[part]!.dy.shape[1]!;
    tiles += Math.ceil(width / columnsPerGroup);
    places.set(`${of} ${part}`, (grad.byteOffset - grads.byteOffset) / 4);
  }
  const before = parts.slice(0, first).reduce((sum, { rank }) => sum + rank, 0);
  const own = { ...du, byteOffset: du.byteOffset + 4 * before, sizeBytes: du.sizeBytes - 4 * before };
  const params = [tokens, inputs, ldu, bits, packedLayout(tokens, 0).header];
  for (const [i, part] of shown.entries()) {
    const place = (of: "dA" | "dB") => places.get(`${of} ${first + i}`) ?? 0;
    const scale = f32(part?.adapter?.scale ?? 0);
    params.push(part?.dy.shape[1] ?? 0, part?.rank ?? 0, scale, place("dA"), place("dB"));
  }
  const chunks = Math.ceil(Math.max(...wants.map(({ part }) => parts[part]!.rank)) / ranksPerGroup);
  const operands = [grads, { ...orNothing(x), ...unit }, own, ...wide];
  gpu.commands.launch(pipeline, operands, params, [tiles, chunks, 1]);
}
