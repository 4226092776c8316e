// Compute pipelines from WGSL pieces: a variant names its files and the constants that specialise them, and is compiled
// once. What a shader binds is read from its own text, so bindings are declared in one place. Not here: what a kernel's
// parameters mean (the files that launch it), queues and bind groups (commands.ts).

import { invariant } from "../../util/errors.ts";
import type { Failure } from "./device.ts";
import { type ShaderSource, shaderSources } from "./shaders.ts";

/** One specialisation of a kernel. */
export interface Variant {
  /** In order; the last one usually holds `main`. */
  readonly files: readonly ShaderSource[];
  /** u32 constants that the files use. */
  readonly constants?: Readonly<Record<string, number>>;
  /** Type aliases that the files use. */
  readonly aliases?: Readonly<Record<string, string>>;
  readonly extensions?: readonly string[];
  /** Words of Params that hold offsets, when more than the storage bindings need. */
  readonly offsetWords?: number;
}

export type BindingKind = "read" | "write" | "uniform";

export interface Pipeline {
  readonly label: string;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** Bindings 1, 2, ... ; binding 0 is the parameters. */
  readonly bindings: readonly BindingKind[];
  /** Bytes of one element of each binding's array. */
  readonly units: readonly number[];
  readonly offsetWords: number;
}

const matrixExtension = "chromium_experimental_subgroup_matrix";

/** The shader text of a variant; on subgroup matrices in subgroups of `subgroupSize` lanes where that must be asked for. */
export function shaderText(variant: Variant, subgroupSize?: number): string {
  const { extensions = [] } = variant;
  if (subgroupSize !== undefined && extensions.includes(matrixExtension)) {
    const controlled = { ...variant, extensions: [...extensions, "subgroup_size_control"] };
    return shaderText(controlled).replace("@compute", `@compute @subgroup_size(${subgroupSize})`);
  }
  const lines = [
    ...extensions.map((name) => `enable ${name};`),
    ...Object.entries(variant.aliases ?? {}).map(([name, type]) => `alias ${name} = ${type};`),
    ...Object.entries(variant.constants ?? {}).map(([name, value]) => `const ${name} = ${value}u;`),
    ...variant.files.map((file) => shaderSources[file]),
  ];
  return numbered(`${lines.join("\n")}\n`);
}

/** Bindings written as @binding(next) take the numbers after the largest that is spelt out. */
function numbered(text: string): string {
  let next = Math.max(0, ...[...text.matchAll(/@binding\((\d+)\)/g)].map((match) => Number(match[1])));
  return text.replace(/@binding\(next\)/g, () => `@binding(${++next})`);
}

const bindingPattern =
  /@binding\((\d+)\)\s*var<(storage, read_write|storage, read|uniform)>\s*\w+\s*:\s*(?:array<(\w+)[,>])?/g;
const unitBytes: Record<string, number> = {
  f32: 4,
  u32: 4,
  i32: 4,
  vec2u: 8,
  vec2f: 8,
  vec4f: 16,
  vec4u: 16,
  f16: 2,
};

/** What a shader binds after its parameters. */
export function bindingsOf(text: string): { kinds: BindingKind[]; units: number[] } {
  const found = [...text.matchAll(bindingPattern)]
    .map((match) => ({ index: Number(match[1]), space: match[2]!, element: match[3] }))
    .sort((a, b) => a.index - b.index);
  const kinds: BindingKind[] = [];
  const units: number[] = [];
  for (const [i, { index, space, element }] of found.entries()) {
    invariant(index === i, `shader binding ${index} follows ${i - 1}`);
    if (i === 0) continue;
    kinds.push(space === "uniform" ? "uniform" : space === "storage, read" ? "read" : "write");
    units.push(unitBytes[element ?? ""] ?? 4);
  }
  return { kinds, units };
}

/** Bytes of the parameters that every kernel's binding 0 may see. */
export const paramsBytes = 128;

/** A part of what a pipeline is asked for by. */
type KeyPart = string | number | boolean;

/** Pipelines by the parts of their keys, one level a part: looking one up joins no text. */
interface KeyNode {
  readonly more: Map<KeyPart, KeyNode>;
  pipeline: Pipeline | undefined;
}

export class Pipelines {
  private readonly compiled = new Map<string, Pipeline>();
  private readonly byKey: KeyNode = { more: new Map(), pipeline: undefined };
  private readonly layouts = new Map<string, GPUBindGroupLayout>();
  constructor(
    private readonly device: GPUDevice,
    private readonly failure: Pick<Failure, "check">,
    /** Of kernels on subgroup matrices, where it must be asked for. */
    private readonly subgroupSize?: number,
  ) {}

  /** The pipeline called `label`, or by the parts of one, compiled at its first use. */
  get(label: string | readonly KeyPart[], variant: () => Variant): Pipeline {
    if (typeof label !== "string") {
      let node = this.byKey;
      for (let i = 0; i < label.length; i++) {
        let next = node.more.get(label[i]!);
        if (!next) node.more.set(label[i]!, (next = { more: new Map(), pipeline: undefined }));
        node = next;
      }
      return (node.pipeline ??= this.get(label.join(" "), variant));
    }
    let pipeline = this.compiled.get(label);
    if (!pipeline) {
      pipeline = this.compile(label, variant());
      this.compiled.set(label, pipeline);
    }
    return pipeline;
  }

  private compile(label: string, variant: Variant): Pipeline {
    const code = shaderText(variant, this.subgroupSize);
    const { kinds, units } = bindingsOf(code);
    const layout = this.layoutOf(kinds);
    const module = this.device.createShaderModule({ label, code });
    // As in memory.ts: what was refused must not be used.
    this.failure.check();
    const pipeline = this.device.createComputePipeline({
      label,
      layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module },
    });
    this.failure.check();
    const storage = kinds.filter((kind) => kind !== "uniform").length;
    return { label, pipeline, layout, bindings: kinds, units, offsetWords: variant.offsetWords ?? storage };
  }

  /** Pipelines that bind alike share a layout, and so bind groups. */
  private layoutOf(kinds: readonly BindingKind[]): GPUBindGroupLayout {
    const key = kinds.join();
    let layout = this.layouts.get(key);
    if (!layout) {
      const types = { read: "read-only-storage", write: "storage", uniform: "uniform" } as const;
      layout = this.device.createBindGroupLayout({
        entries: [
          {
            binding: 0,
            visibility: 4, // GPUShaderStage.COMPUTE; the name is no global under Node
            buffer: { type: "uniform", hasDynamicOffset: true, minBindingSize: paramsBytes },
          },
          ...kinds.map((kind, i) => ({ binding: i + 1, visibility: 4, buffer: { type: types[kind] } })),
        ],
      });
      this.layouts.set(key, layout);
    }
    return layout;
  }
}
