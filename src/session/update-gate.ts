// Which updates happen. The device decides: its clipFactor kernel looks at a step's losses and gradient norm, and holds back
// the update of a step that went wrong and every one after it. So a step can be started before the numbers of the one before
// it were read, and the host, which hears of them later, keeps the count of steps and says when updates go on.

import type { Backend, Tensor } from "../backend/backend.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";

/** An update that was started, or that the host knew to be in vain. */
export interface StartedUpdate {
  /** Its number, 1 for the first; undefined once it is known to be held back. */
  step: number | undefined;
  /** Hears of it; see settling(). */
  settled?: () => Promise<unknown>;
}

export class UpdateGate {
  /** Updates that were started, less those that are known to have been held back. */
  steps = 0;
  /** clipFactor's, on the device. */
  private factor: Tensor | undefined;
  /** The host has heard why updates are held back; the next one may go on. */
  private reopens = false;
  private readonly unsettled: StartedUpdate[] = [];

  constructor(private readonly backend: Backend) {}

  /** An update, after those that were begun before it; `wanted` is false when the host knows its gradients to be bad. */
  begin(wanted: boolean): StartedUpdate {
    const update: StartedUpdate = { step: wanted ? ++this.steps : undefined };
    this.unsettled.push(update);
    return update;
  }

  /** Records what the update just begun multiplies gradients by. */
  factorFor(sumSquares: Tensor, losses: Tensor, maxNorm: number): Tensor {
    const { backend } = this;
    if (!this.factor) {
      const { floatType } = backend;
      this.factor = viewOf(backend.allocate(dtypeBytes[floatType], "workspace"), [1], floatType);
      this.reopens = true;
    }
    if (this.reopens) backend.fill({ y: this.factor, value: 1 });
    this.reopens = false;
    backend.clipFactor({ sumSquares, losses, maxNorm, factor: this.factor });
    return this.factor;
  }

  /**
   * A function that gives what `read` gives and whether the update happened, once all updates begun before have settled.
   * Calling it is hearing of the update: until then those that are begun are held back with it.
   */
  settling<T extends object>(
    update: StartedUpdate,
    read: () => Promise<{ readonly finite: boolean; readonly numbers: T }>,
  ): () => Promise<T & { readonly updated: boolean }> {
    const settle = async () => {
      const earlier = this.unsettled.slice(0, this.unsettled.indexOf(update));
      for (const other of earlier) await other.settled?.().catch(() => {});
      try {
        const { finite, numbers } = await read();
        if (!finite && update.step !== undefined) this.heldBackFrom(update);
        return { ...numbers, updated: update.step !== undefined };
      } finally {
        this.unsettled.splice(this.unsettled.indexOf(update), 1);
      }
    };
    let settled: ReturnType<typeof settle> | undefined;
    const once = () => (settled ??= settle());
    update.settled = once;
    return once;
  }

  /** The device has held back this update and all that were begun since. */
  private heldBackFrom(failed: StartedUpdate): void {
    for (const update of this.unsettled.slice(this.unsettled.indexOf(failed))) {
      if (update.step !== undefined) this.steps--;
      update.step = undefined;
    }
    this.reopens = true;
  }

  free(): void {
    if (this.factor) this.backend.free(this.factor.buffer);
    this.factor = undefined;
  }
}
