// Sums of squares of what each column of a model's matrices is multiplied with, over the tokens of some texts: how much
// an error in that column matters to the layer's output. What quantisers weigh errors with (publish/importance.ts).

import type { Routing } from "../autograd/ops/experts.ts";
import type { Tape, Value } from "../autograd/tape.ts";
import type { Backend, Tensor } from "../backend/backend.ts";
import type { ExpertLayer, Linear, LinearObserver } from "../nn/module.ts";
import { decodeToF32 } from "../tensor/dtype.ts";
import { tensorBytes, viewOf } from "../tensor/tensor.ts";

/** Of one layer: its name, sums [experts, in], and the tokens that made each expert's; of a plain layer one of each. */
export interface LayerSquares {
  readonly name: string;
  readonly sums: Float32Array;
  readonly counts: Float64Array;
}

interface ExpertPass {
  readonly layer: ExpertLayer;
  readonly x: Value;
  readonly routing: Routing;
  /** x has a row a token; else one for each of its experts, by expert. */
  readonly byToken: boolean;
}

export class ColumnSquares implements Disposable {
  private readonly sums = new Map<string, Tensor>();
  private readonly counts = new Map<string, number>();
  private readonly ofExperts = new Map<string, { sums: Float64Array; counts: Float64Array }>();

  constructor(private readonly backend: Backend) {}

  /** What a pass over `tape` is given as `observe`; `read` sums up what `kept` had kept. */
  pass(tape: Tape): {
    readonly observe: LinearObserver;
    kept(): readonly Value[];
    read(): Promise<void>;
  } {
    const experts: ExpertPass[] = [];
    return {
      observe: {
        linears: (x, layers) => this.addLinears(tape, x, layers),
        experts: (x, layer, routing, byToken) => void experts.push({ layer, x, routing, byToken }),
      },
      kept: () => [...new Set(experts.flatMap(({ x, routing }) => [x, routing.tokens, routing.offsets]))],
      read: async () => {
        for (const each of experts) await this.addExperts(each);
      },
    };
  }

  /** In the order in which layers first ran. */
  async layers(): Promise<LayerSquares[]> {
    const found: LayerSquares[] = [];
    for (const [name, tensor] of this.sums) {
      const sums = decodeToF32(await this.backend.read(tensor.buffer), tensor.dtype);
      found.push({ name, sums, counts: Float64Array.of(this.counts.get(name)!) });
    }
    for (const [name, { sums, counts }] of this.ofExperts) {
      found.push({ name, sums: Float32Array.from(sums), counts });
    }
    return found;
  }

  [Symbol.dispose](): void {
    for (const { buffer } of this.sums.values()) this.backend.free(buffer);
    this.sums.clear();
  }

  private addLinears(tape: Tape, x: Value, layers: readonly Linear[]): void {
    const [tokens, inputs] = x.shape as [number, number];
    const targets = layers.map(({ name }) => {
      let target = this.sums.get(name);
      if (!target) {
        const { backend } = this;
        const buffer = backend.allocate(4 * inputs, "workspace");
        backend.write(buffer, new Uint8Array(4 * inputs));
        target = viewOf(buffer, [inputs], "f32");
        this.sums.set(name, target);
      }
      this.counts.set(name, (this.counts.get(name) ?? 0) + tokens);
      return target;
    });
    tape.record({
      name: "columnSquares",
      inputs: [x],
      outputs: [],
      forward: () => {
        for (const out of targets)
          this.backend.addColumnDots({ x: x.data, y: x.data, divisor: undefined, out });
      },
    });
  }

  private async addExperts({ layer, x, routing, byToken }: ExpertPass): Promise<void> {
    const { backend } = this;
    const bytesOf = ({ data }: Value) => backend.read(data.buffer, 0, tensorBytes(data.shape, data.dtype));
    const values = decodeToF32(await bytesOf(x), x.dtype);
    const tokens = integers(await bytesOf(routing.tokens));
    const offsets = integers(await bytesOf(routing.offsets));
    const { name, experts, inputs } = layer;
    const own = this.ofExperts.get(name) ?? {
      sums: new Float64Array(experts * inputs),
      counts: new Float64Array(experts),
    };
    this.ofExperts.set(name, own);
    for (let e = 0; e < experts; e++) {
      for (let slot = offsets[e]!; slot < offsets[e + 1]!; slot++) {
        const from = (byToken ? tokens[slot]! : slot) * inputs;
        for (let i = 0; i < inputs; i++) own.sums[e * inputs + i]! += values[from + i]! ** 2;
      }
      own.counts[e]! += offsets[e + 1]! - offsets[e]!;
    }
  }
}

function integers(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}
