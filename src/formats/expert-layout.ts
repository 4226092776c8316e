// How files hold the weights of a mixture's experts, and the way between those forms and ours. Ours: gate_up_proj
// [E, 2F, C], an expert's gate rows and then its up rows, and down_proj [E, C, F]. Files:
//
//   apart        experts.N.gate_proj.weight [F, C], .up_proj.weight, .down_proj.weight [C, F]; or w1, w3, w2 of
//                block_sparse_moe (Mixtral)
//   fused        experts.gate_up_proj [E, 2F, C] and experts.down_proj [E, C, F] themselves
//   interleaved  gpt-oss: experts.gate_up_proj [E, C, 2F] and experts.down_proj [E, F, C], inputs first, gate and up in
//                turn; biases experts.gate_up_proj_bias [E, 2F] in turn likewise
//   mxfp4        gpt-oss: experts.gate_up_proj_blocks [E, 2F, C/32, 16], two codes a byte with the even one low, and
//                _scales [E, 2F, C/32]; outputs first, gate and up in turn. A number is fp4[code] * 2^(scale - 127).
//                OCP Microscaling Formats 1.0; transformers 5.24, integrations/mxfp4.py
//
// Arithmetic on bytes alone. Which tensors of a folder are what: expert-tensors.ts.

export type ExpertForm = "apart" | "fused" | "interleaved" | "mxfp4";

/** Values of the codes of FP4 (E2M1). */
export const fp4Values = Float32Array.from([
  ...[0, 0.5, 1, 1.5, 2, 3, 4, 6],
  ...[-0, -0.5, -1, -1.5, -2, -3, -4, -6],
]);

/** Numbers that share a scale in MXFP4. */
export const mxfp4Block = 32;

/** Scale of a block by its byte; 255 is not a number. */
export const mxfp4Scale = (code: number): number => (code === 255 ? Number.NaN : 2 ** (code - 127));

type Words = Uint8Array | Uint16Array | Uint32Array | BigUint64Array;

/** The bytes as elements of this size; a copy where they do not lie on its boundary. */
function wordsOf(bytes: Uint8Array, size: number): Words {
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  const { buffer, byteOffset, byteLength } = aligned;
  if (size === 1) return aligned;
  if (size === 2) return new Uint16Array(buffer, byteOffset, byteLength / 2);
  if (size === 4) return new Uint32Array(buffer, byteOffset, byteLength / 4);
  return new BigUint64Array(buffer, byteOffset, byteLength / 8);
}

const bytesOf = (words: Words) => new Uint8Array(words.buffer, words.byteOffset, words.byteLength);

/** Row i of [n, ...] where rows of two halves stand in turn: 0, n/2, 1, n/2 + 1, ... */
export const inTurn = (row: number, rows: number): number =>
  (row % (rows / 2)) * 2 + Math.floor(row / (rows / 2));

/** A stored interleaved expert [in, out] as [out, in]; `paired`: its outputs are gate and up in turn. */
export function fromInterleaved(
  bytes: Uint8Array,
  size: number,
  out: number,
  width: number,
  paired: boolean,
): Uint8Array {
  const stored = wordsOf(bytes, size);
  const made = wordsOf(new Uint8Array(bytes.byteLength), size);
  for (let o = 0; o < out; o++) {
    const column = paired ? inTurn(o, out) : o;
    for (let i = 0; i < width; i++) made[o * width + i] = stored[i * out + column]!;
  }
  return bytesOf(made);
}

/** The way back: [out, in] as a file holds it. */
export function toInterleaved<T extends Float32Array | Words>(
  values: T,
  out: number,
  width: number,
  paired: boolean,
): T {
  const made = values.slice() as T;
  for (let o = 0; o < out; o++) {
    const column = paired ? inTurn(o, out) : o;
    for (let i = 0; i < width; i++) made[i * out + column] = values[o * width + i]!;
  }
  return made;
}

/** Biases [E, out] with gate and up in turn, as ours. */
export function biasFromInterleaved(bytes: Uint8Array, size: number, out: number): Uint8Array {
  const stored = wordsOf(bytes, size);
  const made = wordsOf(new Uint8Array(bytes.byteLength), size);
  for (let i = 0; i < stored.length; i++) {
    const row = i % out;
    made[i] = stored[i - row + inTurn(row, out)]!;
  }
  return bytesOf(made);
}

export function biasToInterleaved(values: Float32Array, out: number): Float32Array {
  const made = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const row = i % out;
    made[i - row + inTurn(row, out)] = values[i]!;
  }
  return made;
}

/** An expert's blocks [out, in/32, 16] and scales [out, in/32] as codes with the even element high, and scales, of [out, in]. */
export function fromMxfp4(
  blocks: Uint8Array,
  scales: Uint8Array,
  out: number,
  width: number,
  paired: boolean,
): { readonly codes: Uint8Array; readonly scales: Uint8Array } {
  const [rowCodes, rowScales] = [width / 2, width / mxfp4Block];
  const codes = new Uint8Array(blocks.length);
  const made = new Uint8Array(scales.length);
  for (let o = 0; o < out; o++) {
    const row = paired ? inTurn(o, out) : o;
    for (let i = 0; i < rowCodes; i++) {
      const pair = blocks[row * rowCodes + i]!;
      codes[o * rowCodes + i] = ((pair & 15) << 4) | (pair >> 4);
    }
    made.set(scales.subarray(row * rowScales, (row + 1) * rowScales), o * rowScales);
  }
  return { codes, scales: made };
}

/** The numbers of codes and scales as fromMxfp4 gives them. */
export function mxfp4Numbers(codes: Uint8Array, scales: Uint8Array): Float32Array {
  const values = new Float32Array(2 * codes.length);
  for (let i = 0; i < values.length; i++) {
    const pair = codes[i >> 1]!;
    values[i] =
      fp4Values[i % 2 === 0 ? pair >> 4 : pair & 15]! * mxfp4Scale(scales[Math.floor(i / mxfp4Block)]!);
  }
  return values;
}
