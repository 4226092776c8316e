// Where the rows of project-rows.wgsl come from, as its launches and the kernels that wait for them know it.

import type { Operand } from "./commands.ts";
import type { ShaderSource } from "./shaders.ts";

/** Where rows come from: a file of rows-*.wgsl with what it binds. */
export interface RowSource {
  readonly files: readonly ShaderSource[];
  readonly constants?: Readonly<Record<string, number>>;
  readonly operands: readonly Operand[];
  /** Bound last, as uniforms. */
  readonly uniforms?: readonly Operand[];
  /** Kinds of rows that are made at once. */
  readonly outputs: 1 | 2;
  /** own0 and so on, four at most. */
  readonly own: readonly number[];
  readonly pitch: number;
  /** Whether rows are read four elements at a time. */
  readonly quads: boolean;
}
