// Numbers that a step leaves on the device, a slot each: the summed losses of its micro-batches, then the norm of their
// gradient. They are read together, once a step. Not here: what is made of them (session.ts, update-gate.ts).

import type { Backend, Tensor } from "../backend/backend.ts";
import { type Collective, gatherNumbers } from "../distributed/collective.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { rows, viewOf } from "../tensor/tensor.ts";

/** Bytes between two numbers that are read back: WebGPU's binding alignment. */
const slotBytes = 256;

export class LossSlots {
  private all: Tensor | undefined;
  private count = 0;

  constructor(private readonly backend: Backend) {}

  /** Makes room for so many; what stood there is lost where there was less. */
  reserve(count: number): void {
    const { backend } = this;
    if (this.all && this.count >= count) return;
    this.free();
    const elements = (count * slotBytes) / dtypeBytes[backend.floatType];
    this.all = viewOf(backend.allocate(count * slotBytes, "workspace"), [elements], backend.floatType);
    this.count = count;
  }

  clear(): void {
    this.backend.fill({ y: this.all!, value: 0 });
  }

  at(index: number): Tensor {
    return { ...this.all!, shape: [1], byteOffset: index * slotBytes };
  }

  /** The first so many as they lie, with what is between them. */
  first(count: number): Tensor {
    return rows(this.all!, 0, (count * this.all!.shape[0]!) / this.count);
  }

  async read(count: number): Promise<number[]> {
    const { backend } = this;
    const bytes = await backend.read(this.all!.buffer, 0, count * slotBytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return Array.from({ length: count }, (_, i) =>
      backend.floatType === "f64"
        ? view.getFloat64(i * slotBytes, true)
        : view.getFloat32(i * slotBytes, true),
    );
  }

  /** Gives every rank the losses of all of `count` micro-batches: rank i mod N has made the i-th of those in `taught`. */
  async share(collective: Collective, count: number, taught: readonly number[]): Promise<void> {
    if (collective.size === 1) return;
    const everyone = await gatherNumbers(collective, await this.read(count));
    for (const [index, i] of taught.entries()) {
      const sum = everyone[index % collective.size]![i]!;
      this.backend.write(this.all!.buffer, new Uint8Array(Float32Array.of(sum).buffer), i * slotBytes);
    }
  }

  free(): void {
    if (this.all) this.backend.free(this.all.buffer);
    this.all = undefined;
  }
}
