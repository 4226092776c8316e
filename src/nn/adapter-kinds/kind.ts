// What a kind of adapter supplies. Every kind adds scale * B A to a layer's weight; what it has beside these factors, how
// PEFT writes that, how it begins, acts and is merged, and whether GGUF can hold it, stand in the kind's one file. Registry:
// index.ts. Not here: which layers get an adapter (formats/adapter-targets.ts), the factors' own beginning (lora.ts).

import type { ColumnScale } from "../../autograd/ops/columns.ts";
import type { LinearWeight } from "../../autograd/ops/linear.ts";
import type { Parameter, Tape } from "../../autograd/tape.ts";
import type { Backend, Tensor } from "../../backend/backend.ts";

/** A tensor that a kind keeps for each layer beside the factors. */
export interface KindTensor {
  /** Ours, and the flat parameter's: `<layer>.<name>`. */
  readonly name: string;
  /** After the module's path in adapter_model.safetensors. */
  readonly peftName: string;
  shape(outputs: number, inputs: number, rank: number): readonly number[];
}

/** An adapted layer as a kind is shown it. */
export interface AdaptedLayer {
  readonly name: string;
  readonly inputs: number;
  readonly outputs: number;
  readonly weight: LinearWeight;
  readonly a: Parameter; // [R, in]
  readonly b: Parameter; // [out, R]
  readonly scale: number;
  /** The kind's own, by KindTensor.name. */
  readonly tensors: ReadonlyMap<string, Parameter>;
}

/** What a kind does on one layer. */
export interface Attachment {
  /** What the layer's product, without bias and residual, is scaled by in this pass. */
  columns(tape: Tape): ColumnScale;
  /** The same as numbers, [out], where nothing trains. */
  readonly factors?: Tensor;
  free(): void;
}

/** A kind's tensors of one module, on the host. */
export type KindValues = ReadonlyMap<
  string,
  { readonly shape: readonly number[]; readonly values: Float32Array }
>;

export interface AdapterKind {
  /** Keys of adapter_config.json that say it is this kind, as they are then. */
  readonly peftKeys: Readonly<Record<string, boolean>>;
  readonly tensors: readonly KindTensor[];
  /** Absent: the factors' product is all there is. `fresh`: the kind's own tensors have yet to be given their values. */
  attach?(backend: Backend, layer: AdaptedLayer, fresh: boolean): Attachment;
  /** Finishes rows of W + scale B A, `width` numbers each, the first of them row `first` of the weight. In place. */
  mergeRows?(rows: Float32Array, width: number, first: number, tensors: KindValues): void;
  /** What a GGUF adapter cannot express of it; absent: it can. */
  readonly notInGguf?: string;
  /** Whether embedding tables can be adapted in this way. */
  readonly adaptsEmbeddings: boolean;
}
