// Numbers that every pass brings to the device, in memory that stays from one pass to the next, so that calls which read them
// can be made again (repeated-passes.ts).

import type { Backend, DeviceBuffer, Tensor } from "../backend/backend.ts";
import { encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";

const leastBytes = 256;

export class KeptUpload {
  private buffer: DeviceBuffer | undefined;
  constructor(private readonly backend: Backend) {}

  /** The numbers as i32 of this shape, in the place of those before. */
  write(values: readonly number[], shape: readonly number[] = [values.length]): Tensor {
    const { backend } = this;
    if (!this.buffer || this.buffer.sizeBytes < 4 * values.length) {
      this.free();
      // A few more do not move it.
      const sizeBytes = Math.max(leastBytes, 2 ** Math.ceil(Math.log2(4 * values.length)));
      this.buffer = backend.allocate(sizeBytes, "workspace");
    }
    backend.write(this.buffer, encodeFrom(values, "i32"));
    return viewOf(this.buffer, shape, "i32");
  }

  free(): void {
    if (this.buffer) this.backend.free(this.buffer);
    this.buffer = undefined;
  }
}
