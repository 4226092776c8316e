// Logits after every token of one sequence, for comparing models token by token. Training never materialises them
// (autograd/ops/head-loss.ts), generation takes the last row alone (generate/).

import { Tape, type Value } from "../autograd/tape.ts";
import type { PassContext } from "../nn/module.ts";
import { decodeToF32, encodeFrom } from "../tensor/dtype.ts";
import { viewOf } from "../tensor/tensor.ts";
import type { Decoder } from "./decoder.ts";

/** [T, V], row-major. */
export async function tokenLogits(decoder: Decoder, ids: readonly number[]): Promise<Float32Array> {
  const { backend } = decoder;
  using tape = new Tape(backend, false);
  return await passOf(decoder, tape, ids, {}, async (hidden) => {
    const logits = decoder.logits(tape, hidden);
    tape.run([logits]);
    return decodeToF32(await backend.read(logits.data.buffer), logits.dtype);
  });
}

/** Records one text's pass over `tape` for `use`, which runs it. */
export async function passOf<T>(
  decoder: Decoder,
  tape: Tape,
  ids: readonly number[],
  context: Pick<PassContext, "observe">,
  use: (hidden: Value) => Promise<T>,
): Promise<T> {
  const { backend } = decoder;
  const length = ids.length;
  const { rows, tables } = decoder.ropeCache.place([{ start: 0, count: length, length }]);
  const [idTensor, rowTensor, table] = [ids, rows, [0, length, 0, length]].map((values) => {
    const buffer = backend.allocate(4 * values.length, "workspace");
    backend.write(buffer, encodeFrom(values, "i32"));
    return viewOf(buffer, [values.length], "i32");
  });
  const uploads = [idTensor!, rowTensor!, { ...table!, shape: [1, 4] }] as const;
  const perLayer = decoder.perLayer?.rows(ids);
  try {
    const segments = { table: uploads[2], count: 1, maxQueries: length, maxKeys: length };
    const hidden = decoder.forward(
      tape,
      { ids: uploads[0], rows: uploads[1], tables, segments, perLayer },
      { context: { training: false, seed: 0, pass: 0, ...context } },
    );
    return await use(hidden);
  } finally {
    for (const tensor of [...uploads, ...(perLayer ? [perLayer] : [])]) backend.free(tensor.buffer);
  }
}
