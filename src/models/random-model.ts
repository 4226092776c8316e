// A decoder of random weights, made on the device: what `bench` and `plan --probe` run on when only a config.json is
// there. Speed and memory do not depend on the numbers.

import type { Backend, Tensor } from "../backend/backend.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { elementCount, viewOf } from "../tensor/tensor.ts";
import type { DecoderConfig } from "./decoder-config.ts";
import { weightSpecs } from "./decoder-weights.ts";
import { evenHostRows, type HostRows } from "./host-rows.ts";
import {
  type LoadedDecoder,
  type LoadOptions,
  loadedDecoder,
  matrixDType,
  prepareProducts,
  trainedWeights,
  type Weight,
} from "./load-model.ts";

const normWeight = 1;
/** Standard deviation 0.02 as usual: a uniform's is bound / sqrt(3). */
const matrixBound = 0.02 * Math.sqrt(3);

/** A decoder of this shape with random weights; equal seeds give equal weights. */
export async function randomDecoder(
  backend: Backend,
  config: DecoderConfig,
  seed: number,
  options: LoadOptions = {},
): Promise<LoadedDecoder> {
  const specs = weightSpecs(config);
  const trained = options.train ? trainedWeights(backend, specs) : undefined;
  const frozen = new Map<string, Weight>();
  const onHost = new Map<string, HostRows>();
  const initialise = (tensor: Tensor, index: number) => {
    if (tensor.shape.length === 1) backend.fill({ y: tensor, value: normWeight });
    else backend.fillUniform({ y: tensor, bound: matrixBound, seed, stream: index });
  };
  for (const [index, spec] of specs.entries()) {
    if (trained) {
      initialise(trained.get(spec.name)!.tensor, index);
      continue;
    }
    if (spec.onHost) {
      onHost.set(spec.name, evenHostRows(spec.shape[1]!, matrixBound));
      continue;
    }
    const adaptable = spec.kind === "linear" || spec.kind === "experts";
    const quantize = adaptable && !spec.dense ? options.quantize : undefined;
    const dtype =
      spec.kind === "vector" ? backend.floatType : matrixDType(backend, options.storedDType ?? "f32");
    if (quantize && spec.kind === "experts") {
      const shape = spec.shape as readonly [number, number, number];
      const [, out, width] = shape;
      const dense = viewOf(
        backend.allocate(out * width * dtypeBytes[dtype], "workspace"),
        [out, width],
        dtype,
      );
      const fill = async (expert: number) => initialise(dense, index + specs.length * (expert + 1));
      frozen.set(spec.name, await quantize.stack(shape, dense, fill));
      backend.free(dense.buffer);
      continue;
    }
    const sizeBytes = elementCount(spec.shape) * dtypeBytes[dtype];
    const tensor = viewOf(backend.allocate(sizeBytes, quantize ? "workspace" : "weights"), spec.shape, dtype);
    initialise(tensor, index);
    if (!quantize) {
      frozen.set(spec.name, tensor);
      continue;
    }
    frozen.set(spec.name, await quantize(spec.name, tensor));
    backend.free(tensor.buffer);
  }
  await prepareProducts(backend, specs, { frozen, trained });
  return loadedDecoder(backend, config, specs, { frozen, trained, onHost });
}
