// Weights of a GGUF file on a device as the file has them: matrices in ggml's blocks are put there block for block, in the
// order of a checkpoint's rows, and products read them so. Not here: folders of files (formats/gguf-folder.ts), what
// blocks mean (quant/ggml).

import type { Backend } from "../backend/backend.ts";
import { isGgufFolder } from "../formats/gguf-folder.ts";
import type { ModelFolder } from "../formats/model-folder.ts";
import { type BlockTypeName, blockRowBytes, blockTypeOf } from "../quant/ggml/index.ts";
import { viewOf } from "../tensor/tensor.ts";
import { UserError } from "../util/errors.ts";
import type { WeightSource } from "./load-model.ts";

const pieceBytes = 32 * 2 ** 20;

/** Reads a file's blocks onto a device; undefined where the folder is no GGUF file, or has no matrix in blocks. */
export function storedInBlocks(backend: Backend, folder: ModelFolder): WeightSource["quantized"] {
  if (!isGgufFolder(folder) || !hasBlocks(folder) || !backend.holdsBlocks) return undefined;
  return async (name, shape) => {
    const found = folder.typeOf(name);
    if (found === undefined || !blockTypeOf(found)) return undefined;
    const type = found as BlockTypeName;
    const stored = folder.tensors.get(name)!.shape;
    if (stored.join() !== shape.join()) {
      throw new UserError(
        `${folder.path}: tensor "${name}" has shape [${stored}], but config.json makes it [${shape}]`,
      );
    }
    const width = shape.at(-1)!;
    const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
    const rowBytes = blockRowBytes(type, width);
    const buffer = backend.allocate(rows * rowBytes, "weights");
    const blocks = viewOf(buffer, [rows * rowBytes], "u8");
    try {
      const step = Math.max(1, Math.floor(pieceBytes / rowBytes));
      for (let first = 0; first < rows && !backend.holdsNothing; first += step) {
        const piece = await folder.readBlocks(name, first, Math.min(rows, first + step));
        backend.write(buffer, piece!.bytes, first * rowBytes);
      }
    } catch (error) {
      backend.free(buffer);
      throw error;
    }
    if (shape.length === 3) {
      return { kind: "blockStack", type, shape: shape as readonly [number, number, number], blocks };
    }
    return { kind: "blocks", type, shape: shape as readonly [number, number], blocks };
  };
}

/** Whether a folder is a GGUF file with matrices in blocks. */
export function hasBlocks(folder: ModelFolder): boolean {
  if (!isGgufFolder(folder)) return false;
  return [...folder.tensors.keys()].some((name) => {
    const type = folder.typeOf(name);
    return type !== undefined && blockTypeOf(type) !== undefined;
  });
}
