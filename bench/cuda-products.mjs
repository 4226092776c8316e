// Speed of the CUDA backend's products on a card, at LLaMA-2 7B's shapes: 4-bit weights (nested scales) and bf16 ones, forward and
// with respect to the input, by every tile, decoded within the product or expanded before it; and few rows, as decoding
// has them. Each is first held against double precision in some entries. Run after `npm run build`:
//   npm run bench -- cuda-products [--tokens 1024] [--shapes 4096x4096,11008x4096] [--seconds 0.3] [--json | --json-lines]
// On the tests' emulator (LOWRANK_CUDA_LIBRARY) it checks and its times mean nothing.

import { parseArgs } from "node:util";
import { openCuda } from "../dist/backend/cuda.js";
import { viewOf } from "../dist/tensor/tensor.js";
import { Random } from "../dist/util/rng.js";

const { values: options } = parseArgs({
  options: {
    tokens: { type: "string", default: "1024" },
    shapes: { type: "string", default: "4096x4096,11008x4096,4096x11008" },
    seconds: { type: "string", default: "0.3" },
    json: { type: "boolean", default: false },
    "json-lines": { type: "boolean", default: false },
  },
});
const checkedEntries = 200;
const tolerance = 1.5e-2;
const dense = ["128x256", "128x128", "64x64"].map((forcedTile) => ({ forced: "expanded", forcedTile }));
const within = ["128x128", "64x64"].map((forcedTile) => ({ forced: "fused", forcedTile }));
const nf4 = [
  -1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0, 0.0795803, 0.1609302,
  0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1,
];

function roundToBf16(value) {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0];
  return new Float32Array(
    new Uint32Array([((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0]).buffer,
  )[0];
}

/** 32-bit numbers, quick to make (xorshift: Marsaglia 2003). */
function generator() {
  let state = 0x9e3779b9;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Tensors of one product on a backend, their numbers on the host, and how to free them. */
function makeOperands(backend, tokens, outputs, inputs, kind) {
  const next = generator();
  const buffers = [];
  const upload = (data, shape, dtype) => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const buffer = backend.allocate(bytes.length, "workspace");
    backend.write(buffer, bytes);
    buffers.push(buffer);
    return viewOf(buffer, shape, dtype);
  };
  const floats = (count, bound) => Float32Array.from({ length: count }, () => (next() / 2 ** 31 - 1) * bound);
  const count = outputs * inputs;
  const [x, dy] = [floats(tokens * inputs, 1), floats(tokens * outputs, 1)];
  const operands = {
    x: upload(x, [tokens, inputs], "f32"),
    dy: upload(dy, [tokens, outputs], "f32"),
    y: upload(new Float32Array(tokens * outputs), [tokens, outputs], "f32"),
    dx: upload(new Float32Array(tokens * inputs), [tokens, inputs], "f32"),
  };
  const free = () => {
    for (const buffer of buffers) backend.free(buffer);
  };
  if (kind === "bf16") {
    const bits = Uint16Array.from({ length: count }, () => (0x3c00 + (next() >>> 24)) | (next() & 0x8000));
    const value = (i) => new Float32Array(new Uint32Array([bits[i] << 16]).buffer)[0];
    return { ...operands, weight: upload(bits, [outputs, inputs], "bf16"), value, host: { x, dy }, free };
  }
  const [blocks, groups] = [count / 64, Math.ceil(count / 64 / 256)];
  const codes = Uint8Array.from({ length: count / 2 }, () => next() >>> 24);
  const absmax = Uint8Array.from({ length: blocks }, () => next() >>> 24);
  const nested = Float32Array.from({ length: 256 }, (_, i) => (i - 128) / 128);
  const nestedAbsmax = floats(groups, 0.01);
  const offset = 0.03;
  const weight = {
    kind: "quantized",
    shape: [outputs, inputs],
    codes: upload(codes, [count / 2], "u8"),
    codebook: upload(Float32Array.from(nf4), [16], "f32"),
    blockSize: 64,
    absmax: upload(absmax, [blocks], "u8"),
    nested: {
      codebook: upload(nested, [256], "f32"),
      absmax: upload(nestedAbsmax, [groups], "f32"),
      blockSize: 256,
      offset,
    },
  };
  const value = (i) => {
    const scale = nested[absmax[i >> 6]] * nestedAbsmax[i >> 14] + offset;
    return roundToBf16(nf4[i & 1 ? codes[i >> 1] & 15 : codes[i >> 1] >> 4] * scale);
  };
  return { ...operands, weight, value, host: { x, dy }, free };
}

/** Largest error of some entries over the largest entry. */
async function errorOf(backend, operands, form, tokens, outputs, inputs) {
  const random = new Random(7);
  const [depth, width] = form === "forward" ? [inputs, outputs] : [outputs, inputs];
  const [from, to] = form === "forward" ? [operands.host.x, operands.y] : [operands.host.dy, operands.dx];
  const bytes = await backend.read(to.buffer);
  const found = new Float32Array(bytes.buffer, bytes.byteOffset, tokens * width);
  let [worst, scale] = [0, 1e-6];
  for (let i = 0; i < checkedEntries; i++) {
    const [row, column] = [random.nextInt(tokens), random.nextInt(width)];
    let sum = 0;
    for (let k = 0; k < depth; k++) {
      const place = form === "forward" ? column * inputs + k : k * inputs + column;
      sum += roundToBf16(from[row * depth + k]) * operands.value(place);
    }
    worst = Math.max(worst, Math.abs(sum - found[row * width + column]));
    scale = Math.max(scale, Math.abs(sum));
  }
  return worst / scale;
}

/** Shortest seconds of one call. */
function bestSeconds(backend, call) {
  const batch = (count) => {
    const start = performance.now();
    for (let i = 0; i < count; i++) call();
    backend.settle();
    return (performance.now() - start) / 1000 / count;
  };
  batch(1);
  const count = Math.max(1, Math.min(200, Math.round(0.01 / batch(1))));
  let best = Number.POSITIVE_INFINITY;
  const until = performance.now() + 1000 * Number(options.seconds);
  do best = Math.min(best, batch(count));
  while (performance.now() < until);
  return best;
}

const results = [];
function report(result) {
  results.push(result);
  if (options["json-lines"]) console.log(JSON.stringify(result));
  if (options.json || options["json-lines"]) return;
  const { kind, shape, form, rows, way, ms, error } = result;
  const speed = result.tflops
    ? `${result.tflops.toFixed(1)} TFLOP/s`
    : `${result.gigabytesPerSecond.toFixed(0)} GB/s`;
  console.log(
    `${kind} ${shape} ${form}, ${rows} rows, ${way}: ${ms.toFixed(3)} ms, ${speed}, error ${error.toExponential(1)}`,
  );
}

/** How the backend is to make its products: read at every call. */
const products = {};

/** One way of making a product, held against double precision and timed. */
async function timeOn(backend, operands, { rows, outputs, inputs, form }, way) {
  Object.assign(products, { forced: undefined, forcedTile: undefined }, way);
  const { x, dy, y, dx, weight } = operands;
  const call =
    form === "forward"
      ? () => backend.linear(x, [{ weight, y }])
      : () => backend.linearBackward(undefined, [{ weight, dy }], dx, false);
  call();
  const error = await errorOf(backend, operands, form, rows, outputs, inputs);
  if (!(error <= tolerance)) wrong++;
  return { ms: 1000 * bestSeconds(backend, call), error };
}

let wrong = 0;
const backend = await openCuda({ precision: "bf16", products });
if (!backend) throw new Error("no card that the CUDA backend runs on");
for (const shape of options.shapes.split(",")) {
  const [outputs, inputs] = shape.split("x").map(Number);
  for (const kind of ["nf4", "bf16"]) {
    const rows = Number(options.tokens);
    const operands = makeOperands(backend, rows, outputs, inputs, kind);
    for (const form of ["forward", "input"]) {
      for (const way of kind === "nf4" ? [...within, ...dense] : dense) {
        const found = await timeOn(backend, operands, { rows, outputs, inputs, form }, way);
        const tflops = (2 * rows * outputs * inputs) / found.ms / 1e9;
        const name = `${kind === "nf4" ? `${way.forced} ` : ""}${way.forcedTile}`;
        report({ kind, shape, form, rows, way: name, tflops, ...found });
      }
    }
    for (const few of [1, 4, 16]) {
      const view = (tensor) => ({ ...tensor, shape: [few, tensor.shape[1]] });
      const some = { ...operands, x: view(operands.x), y: view(operands.y) };
      const found = await timeOn(backend, some, { rows: few, outputs, inputs, form: "forward" }, {});
      const bytes = outputs * inputs * (kind === "nf4" ? 0.5 + 1 / 64 : 2);
      report({
        ...{ kind, shape, form: "forward", rows: few, way: "few rows" },
        ...{ gigabytesPerSecond: bytes / found.ms / 1e6, ...found },
      });
    }
    operands.free();
  }
}
if (options.json) console.log(JSON.stringify({ device: backend.description, results }, null, 2));
else if (!options["json-lines"]) console.log(backend.description);
backend.close();
process.exitCode = wrong > 0 ? 1 : 0;
