// AdamW with moments in 8 bits: 2 bytes of state a parameter in place of 8. Each parameter tensor has blocks of its own,
// so that a small tensor's moments never share a scale with another's; tensors of fewer than 4,096 elements keep f32
// moments. The arithmetic is a kernel (definition: adamw-8bit-reference.ts), where the moments live is paging.ts's.
// Source: Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"; limits as in bitsandbytes.

import { type Backend, momentBlockSize, type Tensor } from "../backend/backend.ts";
import { signedDynamicMap, unsignedDynamicMap } from "../quant/dynamic-map.ts";
import { type DType, dtypeBytes, encodeFrom } from "../tensor/dtype.ts";
import { elementCount, rows, viewOf } from "../tensor/tensor.ts";
import {
  defineOptimizer,
  type Optimizer,
  type OptimizerOptions,
  rangesOf,
  type Trainables,
  type UpdateRange,
} from "./optimizer.ts";
import { fillBytes, residentState, type StateMemory } from "./paging.ts";

const smallestQuantized = 4096;
/** Element offsets of tensors in the state: views of the scales, 4 bytes in 256 elements, must start at 256 bytes. */
const alignment = 64 * momentBlockSize;
const zeroOfSignedMap = 127;

/** A parameter: where it lies in the flat trainables, and its moments in the state of its kind. */
interface Part extends Pick<UpdateRange, "rate" | "decays"> {
  readonly at: number;
  readonly stateAt: number;
  readonly count: number;
}

function make(
  backend: Backend,
  parameters: Trainables,
  options: OptimizerOptions,
  memory = residentState(backend),
): Optimizer {
  const { data, grad } = parameters;
  const { beta1, beta2, epsilon, weightDecay } = options;
  const { quantized, plain, quantizedCount, plainCount } = layout(parameters);
  const blocks = Math.ceil(quantizedCount / momentBlockSize);
  const tensor = (store: StateMemory, count: number, dtype: DType): Tensor =>
    viewOf(store.allocate(Math.max(4, count * dtypeBytes[dtype])), [count], dtype);
  const codes = {
    mCodes: tensor(memory, quantizedCount, "u8"),
    vCodes: tensor(memory, quantizedCount, "u8"),
  };
  /** The small part of the state never leaves the device. */
  const resident = residentState(backend);
  const kept = {
    mAbsmax: tensor(resident, blocks, "f32"),
    vAbsmax: tensor(resident, blocks, "f32"),
    m: tensor(resident, plainCount, data.dtype),
    v: tensor(resident, plainCount, data.dtype),
  };
  fillBytes(memory, codes.mCodes, zeroOfSignedMap);
  const map = (values: Float32Array): Tensor => {
    const buffer = backend.allocate(4 * values.length, "optimizer");
    backend.write(buffer, encodeFrom(values, "f32"));
    return viewOf(buffer, [values.length], "f32");
  };
  const [mMap, vMap] = [map(signedDynamicMap), map(unsignedDynamicMap)];
  return {
    async update(step, learningRate, factor) {
      const constantsOf = ({ rate, decays }: Part) => {
        const own = { learningRate: learningRate * rate, weightDecay: decays ? weightDecay : 0 };
        return { step, beta1, beta2, epsilon, ...own, factor };
      };
      for (const part of quantized) {
        const { at, stateAt, count } = part;
        const own = [codes.mCodes, codes.vCodes].map((t) => rows(t, stateAt, stateAt + count));
        await memory.forEachPiece(own, (begin, end, pieces) => {
          const flat = (t: Tensor) => rows(t, at + begin, at + end);
          const scale = (t: Tensor) =>
            rows(t, (stateAt + begin) / momentBlockSize, Math.ceil((stateAt + end) / momentBlockSize));
          backend.adamw8bit({
            ...{ params: flat(data), grads: flat(grad), mMap, vMap },
            ...{ mCodes: pieces[0]!, vCodes: pieces[1]! },
            ...{ mAbsmax: scale(kept.mAbsmax), vAbsmax: scale(kept.vAbsmax) },
            ...constantsOf(part),
          });
        });
      }
      for (const part of plain) {
        const { at, stateAt, count } = part;
        const flat = (t: Tensor) => rows(t, at, at + count);
        const own = (t: Tensor) => rows(t, stateAt, stateAt + count);
        backend.adamw({
          ...{ params: flat(data), grads: flat(grad), m: own(kept.m), v: own(kept.v) },
          ...constantsOf(part),
        });
      }
    },
    state: () =>
      [
        ...Object.entries(codes).map(([name, held]) => ({ name, tensor: held, store: memory })),
        ...Object.entries(kept).map(([name, held]) => ({ name, tensor: held, store: resident })),
      ].filter(({ tensor: { shape } }) => shape[0]! > 0),
    free() {
      for (const { buffer } of Object.values(codes)) memory.free(buffer);
      for (const { buffer } of [...Object.values(kept), mMap, vMap]) backend.free(buffer);
    },
  };
}

export const adamw8bit = defineOptimizer(
  { about: "adamw8bit keeps its state in 8 bits", wholeParameters: true },
  make,
);

function layout(parameters: Trainables) {
  const { data, entries } = parameters;
  const ranges = rangesOf(parameters);
  const quantized: Part[] = [];
  const plain: Part[] = [];
  let quantizedCount = 0;
  let plainCount = 0;
  for (const { tensor } of entries) {
    const count = elementCount(tensor.shape);
    const at = (tensor.byteOffset - data.byteOffset) / dtypeBytes[data.dtype];
    const { rate, decays } = ranges.find(({ begin, end }) => begin <= at && at < end)!;
    if (count >= smallestQuantized) {
      quantized.push({ at, stateAt: quantizedCount, count, rate, decays });
      quantizedCount += Math.ceil(count / alignment) * alignment;
    } else {
      plain.push({ at, stateAt: plainCount, count, rate, decays });
      plainCount += Math.ceil(count / 64) * 64; // views start at 256 bytes
    }
  }
  return { quantized, plain, quantizedCount, plainCount };
}
