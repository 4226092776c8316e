// Made by tools/embed-wgsl.mjs from kernels/*.wgsl: edit those, then run it again.

// biome-ignore-all format: the shaders keep their own layout
// biome-ignore-all lint/complexity/useLiteralKeys: names with hyphens stand beside names without

export const kernelSources = {
  "activation": `// Value and slope of the gate's activation. ACTIVATION: 0 silu, 1 gelu (exact), 2 geluTanh.

/// Complementary error function of t >= 0 over exp(-t^2): Chebyshev fit, relative error below 1.2e-7.
/// Press et al., "Numerical Recipes", section 6.2.
fn erfcScaled(t: f32) -> f32 {
  let u = 1.0 / (1.0 + 0.5 * t);
  return u * exp(-1.26551223 + u * (1.00002368 + u * (0.37409196 + u * (0.09678418 + u * (-0.18628806
    + u * (0.27886807 + u * (-1.13520398 + u * (1.48851587 + u * (-0.82215223 + u * 0.17087277)))))))));
}

/// Standard normal distribution function.
fn normalBelow(x: f32) -> f32 {
  let t = abs(x) * 0.7071067811865476;
  let tail = 0.5 * erfcScaled(t) * exp(-t * t);
  return select(1.0 - tail, tail, x < 0.0);
}

fn logistic(x: f32) -> f32 {
  // The exponent is never positive: exp cannot overflow.
  let e = exp(-abs(x));
  return select(1.0, e, x < 0.0) / (1.0 + e);
}

/// (act(x), act'(x))
fn activate(x: f32) -> vec2f {
  if (ACTIVATION == 0u) {
    let s = logistic(x);
    return vec2f(x * s, s * (1.0 + x * (1.0 - s)));
  }
  if (ACTIVATION == 1u) {
    let below = normalBelow(x);
    return vec2f(x * below, below + x * exp(-0.5 * x * x) * 0.3989422804014327);
  }
  // tanh(z) = 2 logistic(2z) - 1
  let c = 0.7978845608028654;
  let z = c * (x + 0.044715 * x * x * x);
  let s = logistic(2.0 * z);
  let slope = 2.0 * s * (1.0 - s) * c * (1.0 + 3.0 * 0.044715 * x * x);
  return vec2f(x * s, s + x * slope);
}
`,
  "adamw-8bit": `// AdamW on moments in 8 bits (Dettmers et al. 2022): a workgroup takes a block of 256 elements, one a lane, uses its moments
// in full and rounds them to the nearest codes of their maps. An element whose gradient is not finite keeps its parameter
// and restarts its moments. stepSize = lr sqrt(1 - beta2^step) / (1 - beta1^step); epsilon comes scaled by that root.

struct Params {
  grads: u32, sumSquares: u32, params: u32, mCodes: u32, vCodes: u32, mAbsmax: u32, vAbsmax: u32,
  n: u32, clip: u32, maxNorm: f32, beta1: f32, beta2: f32, rest1: f32, rest2: f32,
  decay: f32, stepSize: f32, epsilon: f32, smallest: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grads: array<u32>;
@group(0) @binding(2) var<storage, read> sumSquares: array<f32>;
@group(0) @binding(3) var<storage, read_write> params: array<f32>;
@group(0) @binding(4) var<storage, read_write> mCodes: array<u32>;
@group(0) @binding(5) var<storage, read_write> vCodes: array<u32>;
@group(0) @binding(6) var<storage, read_write> mAbsmax: array<u32>;
@group(0) @binding(7) var<storage, read_write> vAbsmax: array<u32>;
@group(0) @binding(8) var<uniform> mMap: array<vec4f, 64>; // ascending
@group(0) @binding(9) var<uniform> vMap: array<vec4f, 64>;

var<workgroup> largest: array<vec2u, 256>; // bits of |m| and |v|
var<workgroup> inverse: vec2f;
var<workgroup> codes: array<vec2u, 256>;

fn mAt(code: u32) -> f32 { return mMap[code >> 2u][code & 3u]; }
fn vAt(code: u32) -> f32 { return vMap[code >> 2u][code & 3u]; }

/// The nearest entries of the maps; a midpoint goes to the lower one.
fn nearest(x: vec2f) -> vec2u {
  var low = vec2u(0u);
  for (var step = 128u; step > 0u; step >>= 1u) {
    let at = low + vec2u(step); // is x above the midpoint below entry "at"?
    let middle = vec2f(mAt(at.x - 1u) + mAt(at.x), vAt(at.y - 1u) + vAt(at.y)) * 0.5;
    low = select(low, at, x > middle);
  }
  return low;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let block = group.y * grid.x + group.x;
  let at = block * 256u + lane;
  if (block * 256u >= p.n) { return; }
  var factor = 1.0;
  if (p.clip == 1u) { factor = min(1.0, p.maxNorm / (sqrt(sumSquares[p.sumSquares]) + 1e-6)); }
  var m = 0.0;
  var v = 0.0;
  if (at < p.n) {
    let bits = grads[p.grads + at];
    if ((bits & 0x7f800000u) != 0x7f800000u) {
      let g = bitcast<f32>(bits) * factor;
      let shift = (at & 3u) * 8u;
      let mCode = (mCodes[p.mCodes + (at >> 2u)] >> shift) & 255u;
      let vCode = (vCodes[p.vCodes + (at >> 2u)] >> shift) & 255u;
      m = p.beta1 * (mAt(mCode) * bitcast<f32>(mAbsmax[p.mAbsmax + block])) + p.rest1 * g;
      v = p.beta2 * (vAt(vCode) * bitcast<f32>(vAbsmax[p.vAbsmax + block])) + p.rest2 * g * g;
      params[p.params + at] = params[p.params + at] * p.decay - p.stepSize * m / (sqrt(v) + p.epsilon);
    }
  }
  largest[lane] = vec2u(bitcast<u32>(abs(m)), bitcast<u32>(v));
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { largest[lane] = max(largest[lane], largest[lane + half]); }
  }
  workgroupBarrier();
  if (lane == 0u) {
    mAbsmax[p.mAbsmax + block] = largest[0].x;
    vAbsmax[p.vAbsmax + block] = largest[0].y;
    inverse = vec2f(
      bitcast<f32>(divideBits(0x3f800000u, max(largest[0].x, p.smallest))),
      bitcast<f32>(divideBits(0x3f800000u, max(largest[0].y, p.smallest))));
  }
  workgroupBarrier();
  codes[lane] = nearest(vec2f(m, v) * inverse);
  workgroupBarrier();
  if (lane < 64u && block * 256u + lane * 4u < p.n) {
    let four = lane * 4u;
    let words = codes[four] | (codes[four + 1u] << vec2u(8u)) | (codes[four + 2u] << vec2u(16u)) | (codes[four + 3u] << vec2u(24u));
    mCodes[p.mCodes + block * 64u + lane] = words.x;
    vCodes[p.vCodes + block * 64u + lane] = words.y;
  }
}
`,
  "adamw": `// One AdamW update in torch's order of operations (Loshchilov & Hutter 2019), gradients clipped by their total norm.
// decay = 1 - lr * weightDecay; stepSize = lr / (1 - beta1^step); rootCorrection = sqrt(1 - beta2^step).

struct Params {
  grads: u32, sumSquares: u32, params: u32, m: u32, v: u32, n: u32, clip: u32, maxNorm: f32,
  beta1: f32, beta2: f32, rest1: f32, rest2: f32, decay: f32, stepSize: f32, rootCorrection: f32, epsilon: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grads: array<f32>;
@group(0) @binding(2) var<storage, read> sumSquares: array<f32>;
@group(0) @binding(3) var<storage, read_write> params: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;
@group(0) @binding(5) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  var factor = 1.0;
  if (p.clip == 1u) { factor = min(1.0, p.maxNorm / (sqrt(sumSquares[p.sumSquares]) + 1e-6)); }
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at < p.n) {
      let g = grads[p.grads + at] * factor;
      let first = p.beta1 * m[p.m + at] + p.rest1 * g;
      let second = p.beta2 * v[p.v + at] + p.rest2 * g * g;
      m[p.m + at] = first;
      v[p.v + at] = second;
      params[p.params + at] = params[p.params + at] * p.decay
        - p.stepSize * first / (sqrt(second) / p.rootCorrection + p.epsilon);
    }
  }
}
`,
  "add-column-sums": `// Second stage of a sum over rows: out[c] += sum over groups of partial[g, c].

struct Params { partial: u32, out: u32, groups: u32, width: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> partial: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * 64u + lane;
  if (column >= p.width) { return; }
  var sum = 0.0;
  for (var g = 0u; g < p.groups; g++) { sum += partial[p.partial + g * p.width + column]; }
  out[p.out + column] += sum;
}
`,
  "add-in-place": `// y += x.

struct Params { x: u32, y: u32, n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at < p.n) { y[p.y + at] += x[p.x + at]; }
  }
}
`,
  "attention-backward-key": `// dK and dV of 32 keys of one key/value head: dV = P^T dOut and dK = dS^T Q, over every head of its group and every tile
// of queries that sees the keys. Nothing is shared between workgroups, so no atomics are needed. For the sums, lane l
// owns key l / QUADS and four columns of each chunk.

@group(0) @binding(7) var<storage, read_write> dk: array<f32>;
@group(0) @binding(8) var<storage, read_write> dv: array<f32>;

var<workgroup> scoreWeights: array<f32, 32u * WIDE>; // P, [query][key]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = p.table + 4u * group.z;
  let qStart = u32(table[row]);
  let length = u32(table[row + 1u]);
  let kStart = u32(table[row + 2u]);
  let key0 = group.x * 32u;
  if (key0 >= length) { return; }
  let kvHead = group.y;
  let perGroup = p.heads / p.kvHeads;
  let ly = lane / 16u;
  let lx = lane % 16u;
  let mine = lane / QUADS;
  let quad = lane % QUADS;
  var accK: array<vec4f, CHUNKS>;
  var accV: array<vec4f, CHUNKS>;
  var endQuery = length;
  if (p.window > 0u) { endQuery = min(length, key0 + 31u + p.window); }
  for (var head = kvHead * perGroup; head < (kvHead + 1u) * perGroup; head++) {
    for (var query0 = key0; query0 < endQuery; query0 += 32u) {
      let tile = tileOf(lane, qStart, query0, length, kStart, key0, length, head, kvHead);
      for (var i = 0u; i < 4u; i++) {
        let to = (ly + 16u * (i >> 1u)) * WIDE + lx + 16u * (i & 1u);
        scoreWeights[to] = tile.weights[i];
        dScores[to] = tile.slopes[i];
      }
      let queries = min(32u, length - query0);
      for (var chunk = 0u; chunk < CHUNKS; chunk++) {
        workgroupBarrier();
        loadChunk(chunk, lane, qStart + query0, queries, kStart + key0, 0u, head, kvHead);
        workgroupBarrier();
        if (mine < 32u) {
          var sumK = accK[chunk];
          var sumV = accV[chunk];
          for (var query = 0u; query < queries; query++) {
            sumK += dScores[query * WIDE + mine] * tileQ[query * STRIDE + quad];
            sumV += scoreWeights[query * WIDE + mine] * tileO[query * STRIDE + quad];
          }
          accK[chunk] = sumK;
          accV[chunk] = sumV;
        }
      }
    }
  }
  let key = key0 + mine;
  if (mine >= 32u || key >= length) { return; }
  for (var chunk = 0u; chunk < CHUNKS; chunk++) {
    for (var c = 0u; c < 4u; c++) {
      let d = chunk * CHUNK + quad * 4u + c;
      if (d < D) {
        let to = ((kStart + key) * p.kvHeads + kvHead) * D + d;
        dk[p.first + to] = accK[chunk][c];
        dv[p.second + to] = accV[chunk][c];
      }
    }
  }
}
`,
  "attention-backward-query": `// dQ of 32 queries of one head: dQ = dS K over the tiles of keys they see. For the sums, lane l owns query l / QUADS and
// four columns of each chunk.

@group(0) @binding(7) var<storage, read_write> dq: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = p.table + 4u * group.z;
  let qStart = u32(table[row]);
  let length = u32(table[row + 1u]);
  let kStart = u32(table[row + 2u]);
  let query0 = group.x * 32u;
  if (query0 >= length) { return; }
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let ly = lane / 16u;
  let lx = lane % 16u;
  let mine = lane / QUADS;
  let quad = lane % QUADS;
  var acc: array<vec4f, CHUNKS>;
  var key0 = 0u;
  if (p.window > 0u && query0 + 1u > p.window) { key0 = query0 + 1u - p.window; }
  let endKey = min(length, query0 + 32u);
  for (; key0 < endKey; key0 += 32u) {
    let tile = tileOf(lane, qStart, query0, length, kStart, key0, length, head, kvHead);
    for (var i = 0u; i < 4u; i++) { dScores[(ly + 16u * (i >> 1u)) * WIDE + lx + 16u * (i & 1u)] = tile.slopes[i]; }
    let keys = min(32u, length - key0);
    for (var chunk = 0u; chunk < CHUNKS; chunk++) {
      workgroupBarrier();
      loadChunk(chunk, lane, qStart + query0, 0u, kStart + key0, keys, head, kvHead);
      workgroupBarrier();
      if (mine < 32u) {
        var sum = acc[chunk];
        for (var j = 0u; j < keys; j++) { sum += dScores[mine * WIDE + j] * tileK[j * STRIDE + quad]; }
        acc[chunk] = sum;
      }
    }
  }
  let query = query0 + mine;
  if (mine >= 32u || query >= length) { return; }
  for (var chunk = 0u; chunk < CHUNKS; chunk++) {
    for (var c = 0u; c < 4u; c++) {
      let d = chunk * CHUNK + quad * 4u + c;
      if (d < D) { dq[p.first + ((qStart + query) * p.heads + head) * D + d] = acc[chunk][c]; }
    }
  }
}
`,
  "attention-backward-tiles": `// What both halves of attention's backward pass share: 32 x 32 tiles of scores recomputed from q, k and the saved
// log-sum-exp (Dao 2022), P = exp(scale q k - lse) and dS = scale P (dOut v - delta), 2 x 2 of each an invocation.
// p.depth is CHUNK / 4: bounds that only the host knows keep compilers from unrolling what takes them minutes.

struct Params {
  q: u32, k: u32, v: u32, dOut: u32, statistics: u32, table: u32, first: u32, second: u32, // dq, or dk and dv
  heads: u32, kvHeads: u32, window: u32, scale: f32, depth: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> dOut: array<f32>;
@group(0) @binding(5) var<storage, read> statistics: array<vec2f>; // (lse, delta)
@group(0) @binding(6) var<storage, read> table: array<i32>;

const CHUNKS = (D + CHUNK - 1u) / CHUNK;
const QUADS = CHUNK / 4u;
const STRIDE = QUADS + PAD; // padding keeps a column's elements off one bank; PAD is 0 where memory is short
const WIDE = 32u + PAD;

var<workgroup> tileQ: array<vec4f, 32u * STRIDE>;
var<workgroup> tileK: array<vec4f, 32u * STRIDE>;
var<workgroup> tileV: array<vec4f, 32u * STRIDE>;
var<workgroup> tileO: array<vec4f, 32u * STRIDE>; // dOut
var<workgroup> dScores: array<f32, 32u * WIDE>; // [query][key]

/// Queries [query0, query0 + 32) and keys [key0, key0 + 32) of a segment, one chunk of columns of q, k, v and dOut.
fn loadChunk(chunk: u32, lane: u32, qRow: u32, queries: u32, kRow: u32, keys: u32, head: u32, kvHead: u32) {
  for (var at = lane; at < 32u * QUADS; at += 256u) {
    let i = at / QUADS;
    let d = chunk * CHUNK + (at % QUADS) * 4u;
    let qAt = ((qRow + i) * p.heads + head) * D + d;
    let kAt = ((kRow + i) * p.kvHeads + kvHead) * D + d;
    var qs = vec4f(0.0);
    var os = vec4f(0.0);
    var ks = vec4f(0.0);
    var vs = vec4f(0.0);
    for (var c = 0u; c < 4u; c++) {
      if (d + c < D && i < queries) {
        qs[c] = q[p.q + qAt + c];
        os[c] = dOut[p.dOut + qAt + c];
      }
      if (d + c < D && i < keys) {
        ks[c] = k[p.k + kAt + c];
        vs[c] = v[p.v + kAt + c];
      }
    }
    let to = i * STRIDE + at % QUADS;
    tileQ[to] = qs;
    tileO[to] = os;
    tileK[to] = ks;
    tileV[to] = vs;
  }
}

/// P and dS of lane (ly, lx): queries ly + 16 i, keys lx + 16 j; element [i][j] at 2 i + j.
struct Tile { weights: vec4f, slopes: vec4f }

fn tileOf(lane: u32, qStart: u32, query0: u32, qLength: u32, kStart: u32, key0: u32, kLength: u32, head: u32, kvHead: u32) -> Tile {
  let ly = lane / 16u;
  let lx = lane % 16u;
  let queries = min(32u, qLength - query0);
  let keys = min(32u, kLength - key0);
  var scores = vec4f(0.0);
  var slopes = vec4f(0.0);
  for (var chunk = 0u; chunk < CHUNKS; chunk++) {
    workgroupBarrier();
    loadChunk(chunk, lane, qStart + query0, queries, kStart + key0, keys, head, kvHead);
    workgroupBarrier();
    for (var d = 0u; d < p.depth; d++) {
      let q0 = tileQ[ly * STRIDE + d];
      let q1 = tileQ[(ly + 16u) * STRIDE + d];
      let o0 = tileO[ly * STRIDE + d];
      let o1 = tileO[(ly + 16u) * STRIDE + d];
      let k0 = tileK[lx * STRIDE + d];
      let k1 = tileK[(lx + 16u) * STRIDE + d];
      let v0 = tileV[lx * STRIDE + d];
      let v1 = tileV[(lx + 16u) * STRIDE + d];
      scores += vec4f(dot(q0, k0), dot(q0, k1), dot(q1, k0), dot(q1, k1));
      slopes += vec4f(dot(o0, v0), dot(o0, v1), dot(o1, v0), dot(o1, v1));
    }
  }
  var tile = Tile(vec4f(0.0), vec4f(0.0));
  for (var i = 0u; i < 2u; i++) {
    let query = query0 + ly + 16u * i;
    for (var j = 0u; j < 2u; j++) {
      let key = key0 + lx + 16u * j;
      // Self-attention: query i stands at position i.
      if (query < qLength && key <= query && (p.window == 0u || key + p.window > query)) {
        let row = (qStart + query) * p.heads + head;
        let at = 2u * i + j;
        let known = statistics[p.statistics + row];
        let weight = exp(scores[at] * p.scale - known.x);
        tile.weights[at] = weight;
        tile.slopes[at] = p.scale * weight * (slopes[at] - known.y);
      }
    }
  }
  return tile;
}
`,
  "attention-decode": `// Causal attention for a handful of new queries a segment over a long cache (token generation): a workgroup takes one
// query of one head, 128 keys at a time, one key a lane. Same result as attention.wgsl, which would leave its tile empty.

struct Params {
  q: u32, k: u32, v: u32, table: u32, out: u32, lse: u32,
  heads: u32, kvHeads: u32, window: u32, scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> table: array<i32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;

const WIDTH = 128u;
const COLUMNS = (D + WIDTH - 1u) / WIDTH;
const LOWEST = -3.0e38;

var<workgroup> query: array<f32, D>;
var<workgroup> weights: array<f32, WIDTH>;
var<workgroup> scratch: array<f32, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = p.table + 4u * group.z;
  let qLength = u32(table[row + 1u]);
  if (group.x >= qLength) { return; }
  let kStart = u32(table[row + 2u]);
  let position = u32(table[row + 3u]) - qLength + group.x;
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let to = (u32(table[row]) + group.x) * p.heads + head;
  for (var d = lane; d < D; d += WIDTH) { query[d] = q[p.q + to * D + d]; }
  workgroupBarrier();
  var beginKey = 0u;
  if (p.window > 0u && position + 1u > p.window) { beginKey = position + 1u - p.window; }
  var acc: array<f32, COLUMNS>;
  var largest = LOWEST;
  var total = 0.0;
  for (var key0 = beginKey; key0 <= position; key0 += WIDTH) {
    let count = min(WIDTH, position + 1u - key0);
    var score = LOWEST;
    if (lane < count) {
      let origin = p.k + ((kStart + key0 + lane) * p.kvHeads + kvHead) * D;
      var sum = 0.0;
      for (var d = 0u; d < D; d++) { sum += query[d] * k[origin + d]; }
      score = sum * p.scale;
    }
    scratch[lane] = score;
    for (var half = WIDTH / 2u; half > 0u; half >>= 1u) {
      workgroupBarrier();
      if (lane < half) { scratch[lane] = max(scratch[lane], scratch[lane + half]); }
    }
    workgroupBarrier();
    let top = max(largest, scratch[0]);
    workgroupBarrier();
    let weight = select(0.0, exp(score - top), lane < count);
    weights[lane] = weight;
    scratch[lane] = weight;
    for (var half = WIDTH / 2u; half > 0u; half >>= 1u) {
      workgroupBarrier();
      if (lane < half) { scratch[lane] += scratch[lane + half]; }
    }
    workgroupBarrier();
    let shrink = exp(largest - top);
    total = total * shrink + scratch[0];
    largest = top;
    for (var c = 0u; c < COLUMNS; c++) {
      let d = c * WIDTH + lane;
      var sum = acc[c] * shrink;
      if (d < D) {
        for (var j = 0u; j < count; j++) { sum += weights[j] * v[p.v + ((kStart + key0 + j) * p.kvHeads + kvHead) * D + d]; }
      }
      acc[c] = sum;
    }
    workgroupBarrier();
  }
  for (var c = 0u; c < COLUMNS; c++) {
    let d = c * WIDTH + lane;
    if (d < D) { out[p.out + to * D + d] = acc[c] / total; }
  }
  if (lane == 0u) { lse[p.lse + to] = largest + log(total); }
}
`,
  "attention-delta": `// statistics[t, h] = (lse, delta) with delta = sum over d of dOut * out, which both halves of attention's backward pass
// subtract; side by side so that those halves need one binding less. 16 lanes a row.

struct Params { out: u32, dOut: u32, lse: u32, statistics: u32, rows: u32, width: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> out: array<f32>;
@group(0) @binding(2) var<storage, read> dOut: array<f32>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2f>;

var<workgroup> sums: array<f32, 128>;

@compute @workgroup_size(16, 8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * grid.x + group.x) * 8u + local.y;
  var sum = 0.0;
  if (row < p.rows) {
    for (var d = local.x; d < p.width; d += 16u) {
      sum += out[p.out + row * p.width + d] * dOut[p.dOut + row * p.width + d];
    }
  }
  let at = local.y * 16u + local.x;
  sums[at] = sum;
  for (var half = 8u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local.x < half) { sums[at] += sums[at + half]; }
  }
  if (local.x == 0u && row < p.rows) { statistics[p.statistics + row] = vec2f(lse[p.lse + row], sums[at]); }
}
`,
  "attention-matrix-backward-key": `// dK and dV on subgroup matrices: a subgroup takes MM keys of one key/value head; over every head of its group and every
// tile of queries, with keys as rows: dV = P^T dOut, dK = dS^T Q. Scaled as attention-matrix-backward-query.wgsl.

@group(0) @binding(3) var<storage, read> statistics: array<vec2f>; // (lse, delta)
@group(0) @binding(4) var<storage, read> largest: array<u32>;
@group(0) @binding(5) var<storage, read_write> dk: array<f32>;
@group(0) @binding(6) var<storage, read_write> dv: array<f32>;

var<workgroup> slopes: array<f32, STRIPS * STRIP>;
var<workgroup> dScores: array<f16, STRIPS * STRIP>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
) {
  let row = p.table + 4u * group.z;
  let qStart = u32(table[row]);
  let length = u32(table[row + 1u]);
  let kStart = u32(table[row + 2u]);
  let firstKey = group.x * STRIPS * MM;
  if (firstKey >= length) { return; }
  let kvHead = group.y;
  let perGroup = p.heads / p.kvHeads;
  let qStride = p.heads * D;
  let kStride = p.kvHeads * D;
  let strip = subgroup * STRIP;
  let mine = within / PER_ROW;
  let key = firstKey + subgroup * MM + mine;
  let factor = halfFactor(largest[p.largest]);
  var endQuery = length;
  if (p.window > 0u) { endQuery = min(length, firstKey + STRIPS * MM - 1u + p.window); }

  let rowAt = (kStart + firstKey + subgroup * MM) * kStride + kvHead * D;
  var sumsK: array<Sum, COLUMNS>;
  var sumsV: array<Sum, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) {
    sumsK[c] = Sum(0.0);
    sumsV[c] = Sum(0.0);
  }
  for (var head = kvHead * perGroup; head < (kvHead + 1u) * perGroup; head++) {
    for (var query0 = firstKey; query0 < endQuery; query0 += WIDTH) {
      for (var j = 0u; j < ACROSS; j++) {
        var score = Sum(0.0);
        var slope = Sum(0.0);
        let at = (qStart + query0 + j * MN) * qStride + head * D;
        for (var s = 0u; s < STEPS; s++) {
          let k = subgroupMatrixLoad<Left, row_major>(&halves, p.kAt + rowAt + s * MK, kStride);
          let v = subgroupMatrixLoad<Left, row_major>(&halves, p.vAt + rowAt + s * MK, kStride);
          score = subgroupMatrixMultiplyAccumulate(k, subgroupMatrixLoad<Right, col_major>(&halves, p.qAt + at + s * MK, qStride), score);
          slope = subgroupMatrixMultiplyAccumulate(v, subgroupMatrixLoad<Right, col_major>(&halves, p.dOutAt + at + s * MK, qStride), slope);
        }
        subgroupMatrixStore<row_major>(&scores, strip + j * MN, score, WIDTH);
        subgroupMatrixStore<row_major>(&slopes, strip + j * MN, slope, WIDTH);
      }
      workgroupBarrier();
      for (var c = within % PER_ROW; c < WIDTH; c += PER_ROW) {
        let at = subgroup * STRIP + mine * WIDTH + c;
        let query = query0 + c;
        var weight = 0.0;
        var dScore = 0.0;
        if (query < length && key < length && visible(query, key)) {
          let known = statistics[p.statistics + (qStart + query) * p.heads + head];
          weight = exp(min(scores[at] * p.scale - known.x, 0.0));
          dScore = clamp(p.scale * weight * (slopes[at] - known.y * factor), -65504.0, 65504.0);
        }
        weights[at] = f16(weight);
        dScores[at] = f16(dScore);
      }
      workgroupBarrier();
      for (var s = 0u; s < DEEP; s++) {
        let left = subgroupMatrixLoad<Left, row_major>(&weights, strip + s * MK, WIDTH);
        let leftS = subgroupMatrixLoad<Left, row_major>(&dScores, strip + s * MK, WIDTH);
        let at = (qStart + query0 + s * MK) * qStride + head * D;
        for (var c = 0u; c < COLUMNS; c++) {
          sumsV[c] = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&halves, p.dOutAt + at + c * MN, qStride), sumsV[c]);
          sumsK[c] = subgroupMatrixMultiplyAccumulate(leftS, subgroupMatrixLoad<Right, row_major>(&halves, p.qAt + at + c * MN, qStride), sumsK[c]);
        }
      }
    }
  }
  for (var c = 0u; c < COLUMNS; c++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&scores, strip, sumsK[c], WIDTH);
    subgroupMatrixStore<row_major>(&slopes, strip, sumsV[c], WIDTH);
    workgroupBarrier();
    if (key < length) {
      for (var d = within % PER_ROW; d < MN; d += PER_ROW) {
        let to = ((kStart + key) * p.kvHeads + kvHead) * D + c * MN + d;
        dk[p.first + to] = scores[subgroup * STRIP + mine * WIDTH + d] / factor;
        dv[p.second + to] = slopes[subgroup * STRIP + mine * WIDTH + d] / factor;
      }
    }
  }
}
`,
  "attention-matrix-backward-query": `// dQ on subgroup matrices: a subgroup takes MM queries of one head; dS = scale P (dOut v - delta) in f16, dQ = dS K.
// dOut is scaled by halfFactor(largest), which the result is divided by.

@group(0) @binding(3) var<storage, read> statistics: array<vec2f>; // (lse, delta)
@group(0) @binding(4) var<storage, read> largest: array<u32>;
@group(0) @binding(5) var<storage, read_write> dq: array<f32>;

var<workgroup> slopes: array<f32, STRIPS * STRIP>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
) {
  let row = p.table + 4u * group.z;
  let qStart = u32(table[row]);
  let length = u32(table[row + 1u]);
  let kStart = u32(table[row + 2u]);
  let firstQuery = group.x * STRIPS * MM;
  if (firstQuery >= length) { return; }
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let endKey = min(length, firstQuery + STRIPS * MM);
  var beginKey = 0u;
  if (p.window > 0u && firstQuery + 1u > p.window) { beginKey = firstQuery + 1u - p.window; }
  let qStride = p.heads * D;
  let kStride = p.kvHeads * D;
  let strip = subgroup * STRIP;
  let mine = within / PER_ROW;
  let query = firstQuery + subgroup * MM + mine;
  let factor = halfFactor(largest[p.largest]);
  var known = vec2f(0.0);
  if (query < length) { known = statistics[p.statistics + (qStart + query) * p.heads + head]; }

  let rowAt = (qStart + firstQuery + subgroup * MM) * qStride + head * D;
  var sums: array<Sum, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) { sums[c] = Sum(0.0); }
  for (var key0 = beginKey; key0 < endKey; key0 += WIDTH) {
    for (var j = 0u; j < ACROSS; j++) {
      var score = Sum(0.0);
      var slope = Sum(0.0);
      let at = (kStart + key0 + j * MN) * kStride + kvHead * D;
      for (var s = 0u; s < STEPS; s++) {
        let q = subgroupMatrixLoad<Left, row_major>(&halves, p.qAt + rowAt + s * MK, qStride);
        let o = subgroupMatrixLoad<Left, row_major>(&halves, p.dOutAt + rowAt + s * MK, qStride);
        score = subgroupMatrixMultiplyAccumulate(q, subgroupMatrixLoad<Right, col_major>(&halves, p.kAt + at + s * MK, kStride), score);
        slope = subgroupMatrixMultiplyAccumulate(o, subgroupMatrixLoad<Right, col_major>(&halves, p.vAt + at + s * MK, kStride), slope);
      }
      subgroupMatrixStore<row_major>(&scores, strip + j * MN, score, WIDTH);
      subgroupMatrixStore<row_major>(&slopes, strip + j * MN, slope, WIDTH);
    }
    workgroupBarrier();
    for (var c = within % PER_ROW; c < WIDTH; c += PER_ROW) {
      let at = subgroup * STRIP + mine * WIDTH + c;
      var dScore = 0.0;
      if (query < length && visible(query, key0 + c)) {
        let weight = exp(min(scores[at] * p.scale - known.x, 0.0));
        dScore = clamp(p.scale * weight * (slopes[at] - known.y * factor), -65504.0, 65504.0);
      }
      weights[at] = f16(dScore);
    }
    workgroupBarrier();
    for (var s = 0u; s < DEEP; s++) {
      let left = subgroupMatrixLoad<Left, row_major>(&weights, strip + s * MK, WIDTH);
      let at = p.kAt + (kStart + key0 + s * MK) * kStride + kvHead * D;
      for (var c = 0u; c < COLUMNS; c++) {
        sums[c] = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&halves, at + c * MN, kStride), sums[c]);
      }
    }
  }
  for (var c = 0u; c < COLUMNS; c++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&scores, strip, sums[c], WIDTH);
    workgroupBarrier();
    if (query < length) {
      for (var d = within % PER_ROW; d < MN; d += PER_ROW) {
        dq[p.first + ((qStart + query) * p.heads + head) * D + c * MN + d] = scores[subgroup * STRIP + mine * WIDTH + d] / factor;
      }
    }
  }
}
`,
  "attention-matrix-params": `// What the attention kernels on subgroup matrices share. Copies of q, k, v and dOut in f16 lie in one buffer, "halves", at
// element qAt and so on, rows [T, heads, D], followed by zero rows enough for a last tile; matrices are loaded from there.
// STRIPS subgroups of SUBGROUP lanes take MM rows each; matrices are MM x MN x MK; the other side goes by WIDTH at a time.

struct Params {
  halves: u32, table: u32, statistics: u32, largest: u32, first: u32, second: u32,
  heads: u32, kvHeads: u32, window: u32, scale: f32, qAt: u32, kAt: u32, vAt: u32, dOutAt: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> halves: array<f16>;
@group(0) @binding(2) var<storage, read> table: array<i32>;

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sum = subgroup_matrix_result<f32, MN, MM>;

const THREADS = STRIPS * SUBGROUP;
const STEPS = D / MK; // along the head's width, as the inner dimension
const COLUMNS = D / MN; // and as columns
const ACROSS = WIDTH / MN;
const DEEP = WIDTH / MK;
const STRIP = MM * WIDTH;
const PER_ROW = SUBGROUP / MM; // lanes that share a row

var<workgroup> scores: array<f32, STRIPS * STRIP>;
var<workgroup> weights: array<f16, STRIPS * STRIP>;

/// Whether a query at "position" of its segment sees "key".
fn visible(position: u32, key: u32) -> bool {
  return key <= position && (p.window == 0u || key + p.window > position);
}
`,
  "attention-matrix": `// attention.wgsl on subgroup matrices: a subgroup takes MM queries of one head and sweeps the keys twice, first for each
// query's log-sum-exp, then for its output, so that sums in matrices need no rescaling between. f16 inputs, f32 sums.

@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
// p.statistics is out's offset and p.largest lse's.

var<workgroup> shares: array<vec2f, THREADS>;

const LOWEST = -3.0e38;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
) {
  let row = p.table + 4u * group.z;
  let qStart = u32(table[row]);
  let qLength = u32(table[row + 1u]);
  let kStart = u32(table[row + 2u]);
  let kLength = u32(table[row + 3u]);
  let firstQuery = group.x * STRIPS * MM;
  if (firstQuery >= qLength) { return; }
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let before = kLength - qLength;
  let endKey = before + min(qLength, firstQuery + STRIPS * MM);
  var beginKey = 0u;
  if (p.window > 0u && before + firstQuery + 1u > p.window) { beginKey = before + firstQuery + 1u - p.window; }
  let qStride = p.heads * D;
  let kStride = p.kvHeads * D;
  let strip = subgroup * STRIP;
  let mine = within / PER_ROW; // this lane's row of the strip
  let query = firstQuery + subgroup * MM + mine;
  let position = before + query;

  var queries: array<Left, STEPS>;
  for (var s = 0u; s < STEPS; s++) {
    let at = p.qAt + (qStart + firstQuery + subgroup * MM) * qStride + head * D + s * MK;
    queries[s] = subgroupMatrixLoad<Left, row_major>(&halves, at, qStride);
  }
  var outs: array<Sum, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) { outs[c] = Sum(0.0); }
  var largest = LOWEST;
  var total = 0.0;
  var logSum = 0.0;
  for (var sweep = 0u; sweep < 2u; sweep++) {
    for (var key0 = beginKey; key0 < endKey; key0 += WIDTH) {
      for (var j = 0u; j < ACROSS; j++) {
        var sum = Sum(0.0);
        let at = p.kAt + (kStart + key0 + j * MN) * kStride + kvHead * D;
        for (var s = 0u; s < STEPS; s++) {
          sum = subgroupMatrixMultiplyAccumulate(queries[s], subgroupMatrixLoad<Right, col_major>(&halves, at + s * MK, kStride), sum);
        }
        subgroupMatrixStore<row_major>(&scores, strip + j * MN, sum, WIDTH);
      }
      workgroupBarrier();
      for (var c = within % PER_ROW; c < WIDTH; c += PER_ROW) {
        let at = subgroup * STRIP + mine * WIDTH + c;
        let score = scores[at] * p.scale;
        let sees = query < qLength && visible(position, key0 + c);
        if (sweep == 1u) {
          weights[at] = f16(select(0.0, exp(min(score - logSum, 0.0)), sees));
        } else if (sees) {
          let top = max(largest, score);
          total = total * exp(largest - top) + exp(score - top);
          largest = top;
        }
      }
      workgroupBarrier();
      if (sweep == 1u) {
        for (var s = 0u; s < DEEP; s++) {
          let left = subgroupMatrixLoad<Left, row_major>(&weights, strip + s * MK, WIDTH);
          let at = p.vAt + (kStart + key0 + s * MK) * kStride + kvHead * D;
          for (var c = 0u; c < COLUMNS; c++) {
            outs[c] = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&halves, at + c * MN, kStride), outs[c]);
          }
        }
      }
    }
    if (sweep == 0u) {
      shares[lane] = vec2f(largest, total);
      workgroupBarrier();
      var top = LOWEST;
      let first = lane - within % PER_ROW;
      for (var i = 0u; i < PER_ROW; i++) { top = max(top, shares[first + i].x); }
      var sum = 0.0;
      for (var i = 0u; i < PER_ROW; i++) { sum += shares[first + i].y * exp(shares[first + i].x - top); }
      if (sum > 0.0) { logSum = top + log(sum); }
    }
  }
  let to = (qStart + query) * p.heads + head;
  if (query < qLength && within % PER_ROW == 0u) { lse[p.largest + to] = logSum; }
  for (var c = 0u; c < COLUMNS; c++) {
    workgroupBarrier();
    subgroupMatrixStore<row_major>(&scores, strip, outs[c], WIDTH);
    workgroupBarrier();
    if (query < qLength) {
      for (var d = within % PER_ROW; d < MN; d += PER_ROW) {
        out[p.statistics + to * D + c * MN + d] = scores[subgroup * STRIP + mine * WIDTH + d];
      }
    }
  }
}
`,
  "attention": `// Causal attention over segments, forward: a workgroup takes BQ queries of one head and walks the keys they see in tiles
// of BK, keeping maximum, sum and output of each query as it goes (FlashAttention-2, Dao 2023). Scores never reach
// device memory. D is the head width; q and k pass through workgroup memory 32 columns at a time, v 64. All tiles are
// vectors of four. p.depth is 8: bounds that only the host knows keep compilers from unrolling what takes them minutes.

struct Params {
  q: u32, k: u32, v: u32, table: u32, out: u32, lse: u32,
  heads: u32, kvHeads: u32, window: u32, scale: f32, depth: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> table: array<i32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;

// 16 x 16 lanes: lane (ly, lx) owns queries ly + 16 i, keys lx + 16 j and output columns 4 lx .. 4 lx + 3 of each chunk.
const ROWS = BQ / 16u;
const KEYS = BK / 16u;
const CHUNKS = (D + 31u) / 32u;
const VALUE_CHUNKS = (D + 63u) / 64u;
const PER_ROW = 256u / BQ; // lanes that share a query's maximum and sum
const NARROW = 9u; // vectors a row of 32 columns takes, padded
const WIDE = 17u; // and of 64
const QUADS = BK / 4u;
const SCORES = QUADS + 1u;
const LOWEST = -3.0e38;

var<workgroup> tileQ: array<vec4f, BQ * NARROW>;
var<workgroup> tileK: array<vec4f, BK * WIDE>; // keys, then values
var<workgroup> weights: array<vec4f, BQ * SCORES>; // scores, then exp(score - maximum)
var<workgroup> partial: array<f32, 256>;
var<workgroup> rowMax: array<f32, BQ>;
var<workgroup> rowSum: array<f32, BQ>;
var<workgroup> rowShrink: array<f32, BQ>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = p.table + 4u * group.z;
  let qStart = u32(table[row]);
  let qLength = u32(table[row + 1u]);
  let kStart = u32(table[row + 2u]);
  let kLength = u32(table[row + 3u]);
  let firstQuery = group.x * BQ;
  if (firstQuery >= qLength) { return; }
  let head = group.y;
  let kvHead = head * p.kvHeads / p.heads;
  let ly = lane / 16u;
  let lx = lane % 16u;
  let before = kLength - qLength; // keys older than the first query
  let endKey = before + min(qLength, firstQuery + BQ);
  var beginKey = 0u;
  if (p.window > 0u && before + firstQuery + 1u > p.window) { beginKey = before + firstQuery + 1u - p.window; }

  var acc: array<vec4f, ROWS * VALUE_CHUNKS>;
  for (var i = lane; i < BQ; i += 256u) {
    rowMax[i] = LOWEST;
    rowSum[i] = 0.0;
  }
  for (var key0 = beginKey; key0 < endKey; key0 += BK) {
    var scores: array<f32, ROWS * KEYS>;
    for (var i = 0u; i < ROWS * KEYS; i++) { scores[i] = 0.0; } // a declaration in a loop is not always cleared again
    for (var chunk = 0u; chunk < CHUNKS; chunk++) {
      workgroupBarrier();
      for (var at = lane; at < BQ * 8u; at += 256u) {
        let i = at / 8u;
        let d = chunk * 32u + (at % 8u) * 4u;
        var value = vec4f(0.0);
        if (firstQuery + i < qLength) { value = four(((qStart + firstQuery + i) * p.heads + head) * D, d, 0u); }
        tileQ[i * NARROW + at % 8u] = value;
      }
      for (var at = lane; at < BK * 8u; at += 256u) {
        let j = at / 8u;
        let d = chunk * 32u + (at % 8u) * 4u;
        var value = vec4f(0.0);
        if (key0 + j < endKey) { value = four(((kStart + key0 + j) * p.kvHeads + kvHead) * D, d, 1u); }
        tileK[j * NARROW + at % 8u] = value;
      }
      workgroupBarrier();
      for (var d = 0u; d < p.depth; d++) {
        var keys: array<vec4f, KEYS>;
        for (var j = 0u; j < KEYS; j++) { keys[j] = tileK[(lx + 16u * j) * NARROW + d]; }
        for (var i = 0u; i < ROWS; i++) {
          let query = tileQ[(ly + 16u * i) * NARROW + d];
          for (var j = 0u; j < KEYS; j++) { scores[i * KEYS + j] += dot(query, keys[j]); }
        }
      }
    }
    for (var i = 0u; i < ROWS; i++) {
      let position = before + firstQuery + ly + 16u * i;
      for (var j = 0u; j < KEYS; j++) {
        let at = lx + 16u * j;
        let key = key0 + at;
        let visible = key <= position && key < endKey && (p.window == 0u || key + p.window > position);
        weights[(ly + 16u * i) * SCORES + at / 4u][at % 4u] = select(LOWEST, scores[i * KEYS + j] * p.scale, visible);
      }
    }
    workgroupBarrier();
    // PER_ROW lanes a query: its new maximum, then its weights and their sum.
    let mine = lane / PER_ROW;
    let share = lane % PER_ROW;
    var tops = vec4f(LOWEST);
    for (var j = share; j < QUADS; j += PER_ROW) { tops = max(tops, weights[mine * SCORES + j]); }
    partial[lane] = max(max(tops.x, tops.y), max(tops.z, tops.w));
    workgroupBarrier();
    let old = rowMax[mine];
    var top = old;
    for (var j = 0u; j < PER_ROW; j++) { top = max(top, partial[mine * PER_ROW + j]); }
    var sums = vec4f(0.0);
    for (var j = share; j < QUADS; j += PER_ROW) {
      let score = weights[mine * SCORES + j];
      let weight = select(vec4f(0.0), exp(score - vec4f(top)), score > vec4f(LOWEST));
      weights[mine * SCORES + j] = weight;
      sums += weight;
    }
    workgroupBarrier();
    partial[lane] = sums.x + sums.y + sums.z + sums.w;
    workgroupBarrier();
    if (share == 0u) {
      var total = 0.0;
      for (var j = 0u; j < PER_ROW; j++) { total += partial[mine * PER_ROW + j]; }
      let shrink = exp(old - top);
      rowShrink[mine] = shrink;
      rowSum[mine] = rowSum[mine] * shrink + total;
      rowMax[mine] = top;
    }
    let quads = (min(BK, endKey - key0) + 3u) / 4u;
    for (var chunk = 0u; chunk < VALUE_CHUNKS; chunk++) {
      workgroupBarrier();
      for (var at = lane; at < BK * 16u; at += 256u) {
        let j = at / 16u;
        let d = chunk * 64u + (at % 16u) * 4u;
        var value = vec4f(0.0);
        if (key0 + j < endKey) { value = four(((kStart + key0 + j) * p.kvHeads + kvHead) * D, d, 2u); }
        tileK[j * WIDE + at % 16u] = value;
      }
      workgroupBarrier();
      for (var i = 0u; i < ROWS; i++) { acc[i * VALUE_CHUNKS + chunk] *= rowShrink[ly + 16u * i]; }
      for (var j = 0u; j < quads; j++) {
        let v0 = tileK[(4u * j) * WIDE + lx];
        let v1 = tileK[(4u * j + 1u) * WIDE + lx];
        let v2 = tileK[(4u * j + 2u) * WIDE + lx];
        let v3 = tileK[(4u * j + 3u) * WIDE + lx];
        for (var i = 0u; i < ROWS; i++) {
          let w = weights[(ly + 16u * i) * SCORES + j];
          acc[i * VALUE_CHUNKS + chunk] += w.x * v0 + w.y * v1 + w.z * v2 + w.w * v3;
        }
      }
    }
  }
  workgroupBarrier();
  for (var i = 0u; i < ROWS; i++) {
    let query = firstQuery + ly + 16u * i;
    if (query >= qLength) { continue; }
    let to = (qStart + query) * p.heads + head;
    let total = rowSum[ly + 16u * i];
    for (var chunk = 0u; chunk < VALUE_CHUNKS; chunk++) {
      let value = acc[i * VALUE_CHUNKS + chunk] / total;
      for (var c = 0u; c < 4u; c++) {
        let d = chunk * 64u + lx * 4u + c;
        if (d < D) { out[p.out + to * D + d] = value[c]; }
      }
    }
    if (lx == 0u) { lse[p.lse + to] = rowMax[ly + 16u * i] + log(total); }
  }
}

/// Columns d .. d + 3 of the row that starts at "row" of q, k or v (0, 1, 2); zero beyond D.
fn four(row: u32, d: u32, which: u32) -> vec4f {
  var value = vec4f(0.0);
  for (var c = 0u; c < 4u; c++) {
    if (d + c < D) {
      let at = row + d + c;
      if (which == 0u) { value[c] = q[p.q + at]; } else if (which == 1u) { value[c] = k[p.k + at]; } else { value[c] = v[p.v + at]; }
    }
  }
  return value;
}
`,
  "cast": `// y = x between f32, bf16, f16 (and from f64). One invocation writes one 32-bit word, so a pair of 16-bit elements.
// FROM and TO: 0 f32, 1 bf16, 2 f16, 3 f64. x's offset counts elements (words of f64 are two), y's counts words.

struct Params { x: u32, y: u32, n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

fn element(i: u32) -> u32 {
  if (i >= p.n) { return 0u; }
  let at = p.x + i;
  if (FROM == 0u) { return x[at]; }
  if (FROM == 3u) { return f32FromF64(x[2u * at], x[2u * at + 1u]); }
  let half = (x[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu;
  if (FROM == 1u) { return half << 16u; }
  return f32FromF16(half);
}

fn half(bits: u32) -> u32 {
  if (TO == 1u) { return bf16FromF32(bits); }
  return f16FromF32(bits);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (TO == 0u) {
      if (at < p.n) { y[p.y + at] = element(at); }
    } else if (2u * at < p.n) {
      y[p.y + at] = half(element(2u * at)) | (half(element(2u * at + 1u)) << 16u);
    }
  }
}
`,
  "column-sums": `// First stage of a sum over rows: partial[g, c] = sum of x[row, c] over the SPAN rows of group g. With NORM it sums
// x * y * rstd[row], the gradient of an RMSNorm's weight. One invocation a column, so loads are consecutive.

struct Params { x: u32, y: u32, rstd: u32, partial: u32, rows: u32, width: u32, span: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = group.x * 64u + lane;
  if (column >= p.width) { return; }
  let start = group.y * p.span;
  let end = min(p.rows, start + p.span);
  var sum = 0.0;
  for (var row = start; row < end; row++) {
    let at = row * p.width + column;
    if (NORM == 1u) { sum += x[p.x + at] * y[p.y + at] * rstd[p.rstd + row]; } else { sum += x[p.x + at]; }
  }
  partial[p.partial + group.y * p.width + column] = sum;
}
`,
  "cross-entropy": `// loss[i] = -log softmax(logits[i])[targets[i]], one workgroup a row; with GRAD the logits become their gradient,
// (softmax - onehot) * gradScale. Maximum and sum are found in one pass (Milakov & Gimelshein 2018).

struct Params { logits: u32, targets: u32, loss: u32, rows: u32, width: u32, gradScale: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> logits: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<i32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;

var<workgroup> maxima: array<f32, 256>;
var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let start = p.logits + row * p.width;
  var largest = -3.0e38;
  var sum = 0.0;
  for (var c = lane; c < p.width; c += 256u) {
    let value = logits[start + c];
    if (value > largest) {
      sum = sum * exp(largest - value) + 1.0;
      largest = value;
    } else {
      sum += exp(value - largest);
    }
  }
  maxima[lane] = largest;
  sums[lane] = sum;
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) {
      let top = max(maxima[lane], maxima[lane + half]);
      sums[lane] = sums[lane] * exp(maxima[lane] - top) + sums[lane + half] * exp(maxima[lane + half] - top);
      maxima[lane] = top;
    }
  }
  workgroupBarrier();
  let top = maxima[0];
  let logSum = log(sums[0]);
  let target_ = u32(targets[p.targets + row]);
  if (lane == 0u) { loss[p.loss + row] = logSum - (logits[start + target_] - top); }
  if (GRAD == 1u) {
    storageBarrier();
    let share = p.gradScale / sums[0];
    for (var c = lane; c < p.width; c += 256u) {
      let probability = exp(logits[start + c] - top) * share;
      logits[start + c] = probability - select(0.0, p.gradScale, c == target_);
    }
  }
}
`,
  "dropout-mask": `// The dropout mask of four neighbouring elements: 0, or 1/(1-p) where kept. One Philox block when they share it.

fn mask4(row: u32, column: u32) -> vec4f {
  let index = row * p.maskStride + column + p.maskFirst;
  var words = philox(index >> 2u, p.stream, p.seedLow, p.seedHigh, p.rounds);
  let lane = index & 3u;
  if (lane != 0u) {
    let next = philox((index >> 2u) + 1u, p.stream, p.seedLow, p.seedHigh, p.rounds);
    var rolled: vec4u;
    for (var i = 0u; i < 4u; i++) {
      let at = lane + i;
      rolled[i] = select(words[at & 3u], next[at & 3u], at >= 4u);
    }
    words = rolled;
  }
  return select(vec4f(0.0), vec4f(p.keepScale), words >= vec4u(p.threshold));
}
`,
  "embedding-backward": `// dTable[ids[t]] += dy[t], without atomics and in the order of t, so the sum is the same in every run: the workgroup of a
// token works only when it is the first with its id, and then adds every token with that id.

struct Params { ids: u32, dy: u32, table: u32, tokens: u32, width: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> table: array<f32>;

var<workgroup> earlier: atomic<u32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let token = group.y * grid.x + group.x;
  if (token >= p.tokens) { return; }
  let id = ids[p.ids + token];
  let row = u32(id) - p.first;
  if (row >= p.count) { return; }
  for (var t = lane; t < token; t += 128u) {
    if (ids[p.ids + t] == id) { atomicStore(&earlier, 1u); }
  }
  workgroupBarrier();
  if (atomicLoad(&earlier) != 0u) { return; }
  for (var c = lane; c < p.width; c += 128u) {
    var sum = 0.0;
    for (var t = token; t < p.tokens; t++) {
      if (ids[p.ids + t] == id) { sum += dy[p.dy + t * p.width + c]; }
    }
    table[p.table + row * p.width + c] += sum;
  }
}
`,
  "epilogue-vec4": `// epilogue.wgsl for products whose rows are vectors of four: N a multiple of four, and C, bias and residual aligned.
// Offsets of these three count vectors.

@group(0) @binding(2) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read> residual: array<vec4f>;

fn emit4(m: u32, n: u32, product: vec4f) {
  if (m >= p.m || n >= p.n) { return; }
  var v = product * p.scale;
  if (DROPOUT == 3u) { v *= mask4(m, n); }
  let at = (m * p.ldc + n) >> 2u;
  if ((p.flags & 1u) != 0u) { v += bias[p.bias + (n >> 2u)]; }
  if ((p.flags & 2u) != 0u) { v += residual[p.residual + at]; }
  if ((p.flags & 4u) != 0u) { v += c[p.c + at]; }
  c[p.c + at] = v;
}

/// A slice's partial product, as it is.
fn emitPartial(slice: u32, m: u32, n: u32, v: vec4f) {
  if (m < p.m && n < p.n) { c[p.c + ((slice * p.splitStride + m * p.n + n) >> 2u)] = v; }
}
`,
  "epilogue": `// What happens to a product's elements on their way to memory: scale, dropout's mask, bias (flag 1), residual (flag 2),
// and what C held before (flag 4).

@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;

/// Elements (m, n) .. (m, n + 3) of the product; those outside M x N are dropped.
fn emit4(m: u32, n: u32, product: vec4f) {
  if (m >= p.m || n >= p.n) { return; }
  var v = product * p.scale;
  if (DROPOUT == 3u) { v *= mask4(m, n); }
  for (var i = 0u; i < 4u; i++) {
    if (n + i < p.n) {
      var value = v[i];
      let at = m * p.ldc + n + i;
      if ((p.flags & 1u) != 0u) { value += bias[p.bias + n + i]; }
      if ((p.flags & 2u) != 0u) { value += residual[p.residual + at]; }
      if ((p.flags & 4u) != 0u) { value += c[p.c + at]; }
      c[p.c + at] = value;
    }
  }
}

/// A slice's partial product, as it is.
fn emitPartial(slice: u32, m: u32, n: u32, v: vec4f) {
  if (m >= p.m) { return; }
  for (var i = 0u; i < 4u; i++) {
    if (n + i < p.n) { c[p.c + slice * p.splitStride + m * p.n + n + i] = v[i]; }
  }
}
`,
  "exact-float": `// f32 products and quotients in integers, rounded to nearest even, subnormals included: codes that must be bit for bit those
// of the CPU cannot rely on a GPU's own arithmetic, which may flush subnormals and round quotients loosely. Numbers by
// their bits, finite; results are taken not to overflow. Goes with multiply-high.wgsl.

struct Split { mantissa: u32, exponent: i32 } // mantissa has 24 bits, the top one set

fn splitBits(bits: u32) -> Split {
  let exponent = i32((bits >> 23u) & 255u);
  let fraction = bits & 0x7fffffu;
  if (exponent > 0) { return Split(fraction | 0x800000u, exponent); }
  let shift = countLeadingZeros(fraction) - 8u;
  return Split(fraction << shift, 1 - i32(shift));
}

/// The f32 nearest to top * 2^(exponent - 127 - 31), top's highest bit set; "more" says that the true value is a bit larger.
fn roundBits(sign: u32, exponent: i32, top: u32, more: bool) -> u32 {
  let shift = 8u + u32(max(0, 1 - exponent));
  if (shift > 32u) { return sign; }
  var mantissa = 0u;
  var rest = top;
  if (shift < 32u) {
    mantissa = top >> shift;
    rest = top & ((1u << shift) - 1u);
  }
  let half = 1u << (shift - 1u);
  let up = rest > half || (rest == half && (more || (mantissa & 1u) == 1u));
  return sign | ((u32(max(0, exponent - 1)) << 23u) + mantissa + select(0u, 1u, up));
}

fn multiplyBits(a: u32, b: u32) -> u32 {
  let sign = (a ^ b) & 0x80000000u;
  if ((a & 0x7fffffffu) == 0u || (b & 0x7fffffffu) == 0u) { return sign; }
  let x = splitBits(a);
  let y = splitBits(b);
  // 48 bits, of which the top or the next is set.
  var high = mulHigh(x.mantissa, y.mantissa);
  var low = x.mantissa * y.mantissa;
  var exponent = x.exponent + y.exponent - 126;
  if ((high & 0x8000u) == 0u) {
    high = (high << 1u) | (low >> 31u);
    low = low << 1u;
    exponent -= 1;
  }
  return roundBits(sign, exponent, (high << 16u) | (low >> 16u), (low & 0xffffu) != 0u);
}

/// b is not zero.
fn divideBits(a: u32, b: u32) -> u32 {
  let sign = (a ^ b) & 0x80000000u;
  if ((a & 0x7fffffffu) == 0u) { return sign; }
  let x = splitBits(a);
  let y = splitBits(b);
  var exponent = x.exponent - y.exponent + 127;
  var rest = x.mantissa;
  if (rest < y.mantissa) {
    rest = rest << 1u;
    exponent -= 1;
  }
  var quotient = 0u;
  for (var i = 0u; i < 25u; i++) {
    quotient = quotient << 1u;
    if (rest >= y.mantissa) {
      rest -= y.mantissa;
      quotient |= 1u;
    }
    rest = rest << 1u;
  }
  return roundBits(sign, exponent, quotient << 7u, rest != 0u);
}

/// Integers in the order of the floats that have these bits; both zeros are 0.
fn orderOf(bits: u32) -> i32 {
  let magnitude = i32(bits & 0x7fffffffu);
  return select(magnitude, -magnitude, (bits & 0x80000000u) != 0u);
}
`,
  "fill-uniform": `// y = uniform in [-bound, bound): (bits / 2^31 - 1) * bound. The product is made exactly in integers and rounded once to
// f32 (then to bf16 when TO is 1, to f16 when TO is 2), which gives the bits of the double-precision formula.
// bound = (boundHigh * 2^32 + boundLow) * 2^exponent.

struct Params {
  y: u32, n: u32, first: u32, stream: u32, seedLow: u32, seedHigh: u32, boundHigh: u32, boundLow: u32, exponent: i32,
  rounds: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

fn uniformBits(bits: u32) -> u32 {
  let negative = bits < 0x80000000u;
  let magnitude = select(bits - 0x80000000u, 0x80000000u - bits, negative);
  let low = magnitude * p.boundLow;
  let carry = mulHigh(magnitude, p.boundLow);
  var w = vec3u(low, carry + magnitude * p.boundHigh, mulHigh(magnitude, p.boundHigh));
  if (w.y < carry) { w.z += 1u; }
  if ((w.x | w.y | w.z) == 0u) { return 0u; }
  // Normalise to 96 bits with the top bit set.
  var top = 95i;
  while (w.z == 0u) { w = vec3u(0u, w.x, w.y); top -= 32; }
  let shift = countLeadingZeros(w.z);
  if (shift > 0u) {
    w.z = (w.z << shift) | (w.y >> (32u - shift));
    w.y = (w.y << shift) | (w.x >> (32u - shift));
    w.x = w.x << shift;
  }
  let biased = top - i32(shift) + p.exponent - 31 + 127;
  if (biased <= 0) { return 0u; }
  let rest = w.z & 0xffu;
  let odd = (w.z >> 8u) & 1u;
  let up = rest > 0x80u || (rest == 0x80u && ((w.y | w.x) != 0u || odd == 1u));
  let value = (u32(biased - 1) << 23u) + (w.z >> 8u) + select(0u, 1u, up);
  return value | select(0u, 0x80000000u, negative);
}

fn sixteen(bits: u32) -> u32 {
  if (TO == 1u) { return bf16FromF32(bits); }
  return f16FromF32(bits);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  // One block of four elements an invocation; "first" (elements, a multiple of 4) is where this window starts.
  let at = ((group.y * grid.x + group.x) * 64u + lane) * 4u;
  if (at >= p.n) { return; }
  let words = philox((p.first + at) >> 2u, p.stream, p.seedLow, p.seedHigh, p.rounds);
  var values: array<u32, 4>;
  for (var i = 0u; i < 4u; i++) { values[i] = uniformBits(words[i]); }
  if (TO == 0u) {
    for (var i = 0u; i < 4u; i++) { if (at + i < p.n) { y[p.y + at + i] = values[i]; } }
  } else {
    for (var i = 0u; i < 4u; i += 2u) {
      if (at + i < p.n) {
        let second = select(0u, sixteen(values[i + 1u]), at + i + 1u < p.n);
        y[p.y + ((at + i) >> 1u)] = sixteen(values[i]) | (second << 16u);
      }
    }
  }
}
`,
  "fill": `// y = value. The value travels as bits, so any f32 can be written, NaN included.

struct Params { y: u32, n: u32, value: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at < p.n) { y[p.y + at] = p.value; }
  }
}
`,
  "float-bits": `// Conversions between the bits of f32, bf16, f16 and f64 in integer arithmetic: nearest, ties to even, subnormals,
// infinities and NaN exactly as tensor/dtype.ts, whatever the device does with such numbers itself.

fn bf16FromF32(bits: u32) -> u32 {
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn f16FromF32(bits: u32) -> u32 {
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x477ff000u) { return sign | 0x7c00u; }
  if (magnitude < 0x38800000u) {
    // Subnormal half: the mantissa in units of 2^-24.
    let shift = 126u - (magnitude >> 23u);
    if (shift > 25u) { return sign; }
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let half = 1u << (shift - 1u);
    return sign | ((mantissa + half - 1u + ((mantissa >> shift) & 1u)) >> shift);
  }
  return sign | ((magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u) >> 13u);
}

fn f32FromF16(bits: u32) -> u32 {
  let sign = (bits & 0x8000u) << 16u;
  let exponent = (bits >> 10u) & 31u;
  let mantissa = bits & 0x3ffu;
  if (exponent == 31u) { return sign | 0x7f800000u | (mantissa << 13u); }
  if (exponent > 0u) { return sign | ((exponent + 112u) << 23u) | (mantissa << 13u); }
  if (mantissa == 0u) { return sign; }
  let top = firstLeadingBit(mantissa);
  return sign | ((top + 103u) << 23u) | ((mantissa << (23u - top)) & 0x7fffffu);
}

fn f32FromF64(low: u32, high: u32) -> u32 {
  let sign = high & 0x80000000u;
  let exponent = i32((high >> 20u) & 0x7ffu);
  let top = ((high & 0xfffffu) << 3u) | (low >> 29u);
  let rest = low & 0x1fffffffu;
  if (exponent == 0x7ff) {
    return sign | 0x7f800000u | select(0u, 0x400000u, (top | rest) != 0u);
  }
  let scale = exponent - 896;
  if (scale >= 255) { return sign | 0x7f800000u; }
  if (scale > 0) {
    let up = rest > 0x10000000u || (rest == 0x10000000u && (top & 1u) == 1u);
    return sign | (((u32(scale) << 23u) | top) + select(0u, 1u, up));
  }
  let shift = u32(1 - scale);
  if (shift > 24u || exponent == 0) { return sign; }
  let mantissa = top | 0x800000u;
  let half = 1u << (shift - 1u);
  let lost = mantissa & ((1u << shift) - 1u);
  let up = lost > half || (lost == half && (rest != 0u || ((mantissa >> shift) & 1u) == 1u));
  return sign | ((mantissa >> shift) + select(0u, 1u, up));
}
`,
  "gated-activation-backward": `// In place: on entry gate and up hold the forward pass's inputs, on return their gradients.

struct Params { gate: u32, up: u32, dy: u32, n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> gate: array<f32>;
@group(0) @binding(2) var<storage, read_write> up: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at < p.n) {
      let value = activate(gate[p.gate + at]);
      let upstream = dy[p.dy + at];
      gate[p.gate + at] = upstream * up[p.up + at] * value.y;
      up[p.up + at] = upstream * value.x;
    }
  }
}
`,
  "gated-activation": `// y = act(gate) * up.

struct Params { gate: u32, up: u32, y: u32, n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at < p.n) { y[p.y + at] = activate(gate[p.gate + at]).x * up[p.up + at]; }
  }
}
`,
  "gather-rows": `// y[i] = x[index[i]]. Only rows [first, first + count) of x are bound; other indices leave y alone, so that a table
// larger than a binding is gathered window by window. x is f32 here, 16 bits wide (KIND 1 bf16, 2 f16) for embeddings.

struct Params { x: u32, index: u32, y: u32, rows: u32, width: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> index: array<i32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn element(at: u32) -> f32 {
  if (KIND == 0u) { return bitcast<f32>(x[at]); }
  let half = (x[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu;
  if (KIND == 1u) { return bitcast<f32>(half << 16u); }
  return bitcast<f32>(f32FromF16(half));
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let origin = u32(index[p.index + row]) - p.first;
  if (origin >= p.count) { return; }
  for (var c = lane; c < p.width; c += 128u) {
    y[p.y + row * p.width + c] = element(p.x + origin * p.width + c);
  }
}
`,
  "gemm-matrix": `// gemm.wgsl on subgroup matrices (tensor cores): f16 tiles in workgroup memory, f32 sums. A comes packed and scaled
// (pack-rows.wgsl), B through b4 in any weight format. A workgroup makes BM x BN in steps of BK; its subgroups stand in a
// grid and make WM x WN each, as matrices of MM x MN x MK. Needs chromium_experimental_subgroup_matrix, and subgroups of
// exactly SUBGROUP lanes.

alias Left = subgroup_matrix_left<f16, MK, MM>;
alias Right = subgroup_matrix_right<f16, MN, MK>;
alias Sum = subgroup_matrix_result<f32, MN, MM>;

const COLUMNS = BN / WN; // subgroups side by side
const SUBGROUPS = (BM / WM) * COLUMNS;
const THREADS = SUBGROUPS * SUBGROUP;
const TM = WM / MM;
const TN = WN / MN;
// Rows of tiles: along k in mode 0, along m (n) in mode 1, as in memory; padded off one bank.
const ROW_A = select(BM, BK, A_MODE == 0u) + 8u;
const ROW_B = select(BN, BK, B_MODE == 0u) + 8u;
const ROWS_A = select(BK, BM, A_MODE == 0u);
const ROWS_B = select(BK, BN, B_MODE == 0u);
const EIGHTS_A = BM * BK / 8u;
const FOURS_B = BN * BK / 4u;

@group(0) @binding(1) var<storage, read> a: array<vec4u>;

var<workgroup> tileA: array<f16, ROWS_A * ROW_A>;
var<workgroup> tileB: array<f16, ROWS_B * ROW_B>;
var<workgroup> results: array<f32, SUBGROUPS * MM * MN>;

fn loadA(at: u32, firstM: u32, k0: u32, endK: u32) {
  let perRow = (ROW_A - 8u) / 8u;
  let row = at / perRow;
  let eight = at % perRow;
  let line = select(k0, firstM, A_MODE == 0u) + row;
  let column = select(firstM, k0, A_MODE == 0u) + eight * 8u;
  var words = vec4u(0u);
  // Rows end in zeros up to a multiple of eight; slices of K end at one.
  if (line < select(endK, p.m, A_MODE == 0u) && column < select(p.m, endK, A_MODE == 0u)) {
    words = a[p.a + p.firstRow + (line * p.lda + column) / 8u];
  }
  let to = row * ROW_A + eight * 8u;
  for (var i = 0u; i < 4u; i++) {
    let pair = bitcast<vec2<f16>>(words[i]);
    tileA[to + 2u * i] = pair.x;
    tileA[to + 2u * i + 1u] = pair.y;
  }
}

fn loadB(at: u32, firstN: u32, k0: u32, endK: u32, factor: f32) {
  let perRow = (ROW_B - 8u) / 4u;
  let row = at / perRow;
  let four = at % perRow;
  var values: vec4<f16>;
  if (B_MODE == 0u) {
    values = vec4<f16>(b4(firstN + row, k0 + four * 4u, p.n, endK) * factor);
  } else {
    values = vec4<f16>(b4(k0 + row, firstN + four * 4u, endK, p.n) * factor);
  }
  let to = row * ROW_B + four * 4u;
  tileB[to] = values.x;
  tileB[to + 1u] = values.y;
  tileB[to + 2u] = values.z;
  tileB[to + 3u] = values.w;
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) within: u32,
) {
  let firstM = group.x * BM;
  let firstN = group.y * BN;
  let beginK = group.z * p.kPerSplit;
  let endK = min(p.k, beginK + p.kPerSplit);
  let subM = (subgroup / COLUMNS) * WM;
  let subN = (subgroup % COLUMNS) * WN;
  let factor = bitcast<f32>(a[p.a].x);
  var sums: array<Sum, TM * TN>;
  for (var i = 0u; i < TM * TN; i++) { sums[i] = Sum(0.0); }
  for (var k0 = beginK; k0 < endK; k0 += BK) {
    for (var at = lane; at < EIGHTS_A; at += THREADS) { loadA(at, firstM, k0, endK); }
    for (var at = lane; at < FOURS_B; at += THREADS) { loadB(at, firstN, k0, endK, factor); }
    workgroupBarrier();
    for (var k = 0u; k < BK; k += MK) {
      var rights: array<Right, TN>;
      for (var j = 0u; j < TN; j++) {
        let n = subN + j * MN;
        if (B_MODE == 0u) {
          rights[j] = subgroupMatrixLoad<Right, col_major>(&tileB, n * ROW_B + k, ROW_B);
        } else {
          rights[j] = subgroupMatrixLoad<Right, row_major>(&tileB, k * ROW_B + n, ROW_B);
        }
      }
      for (var i = 0u; i < TM; i++) {
        let m = subM + i * MM;
        var left: Left;
        if (A_MODE == 0u) {
          left = subgroupMatrixLoad<Left, row_major>(&tileA, m * ROW_A + k, ROW_A);
        } else {
          left = subgroupMatrixLoad<Left, col_major>(&tileA, k * ROW_A + m, ROW_A);
        }
        for (var j = 0u; j < TN; j++) {
          sums[i * TN + j] = subgroupMatrixMultiplyAccumulate(left, rights[j], sums[i * TN + j]);
        }
      }
    }
    workgroupBarrier();
  }
  // Results pass through workgroup memory, one matrix a subgroup at a time.
  let base = subgroup * MM * MN;
  for (var i = 0u; i < TM; i++) {
    for (var j = 0u; j < TN; j++) {
      subgroupMatrixStore<row_major>(&results, base, sums[i * TN + j], MN);
      workgroupBarrier();
      for (var at = within; at < MM * MN / 4u; at += SUBGROUP) {
        let m = firstM + subM + i * MM + at / (MN / 4u);
        let n = firstN + subN + j * MN + (at % (MN / 4u)) * 4u;
        if (m < p.m) {
          let first = base + at * 4u;
          let scale = select(4u, 4u + m, A_MODE == 0u);
          let v = vec4f(results[first], results[first + 1u], results[first + 2u], results[first + 3u])
            * bitcast<f32>(a[p.a + scale / 4u][scale & 3u]);
          if (SPLIT == 1u) { emitPartial(group.z, m, n, v); } else { emit4(m, n, v); }
        }
      }
      workgroupBarrier();
    }
  }
}
`,
  "gemm": `// C [M, N] = epilogue(A B), tiled: a workgroup makes a BM x BN tile, an invocation TM x TN of it in registers, from tiles of
// A and B in workgroup memory, BK deep. Operands come through a4 and b4 (operand-*.wgsl), which convert and dequantise, so
// every weight format shares this file. With SPLIT, slice z of K goes to its own partial product (reduce-splits.wgsl).
// TileB is f16 for frozen weights on devices that have it: half the workgroup memory, and exact for f16 weights.

const GROUPS_M = BM / TM;
const GROUPS_N = BN / TN;
const THREADS = GROUPS_M * GROUPS_N;
const BLOCKS_A = BM * BK / 16u; // of 4 x 4 elements
const BLOCKS_B = BN * BK / 16u;
const STRIDE_A = BM / 4u + 1u; // one vector of padding keeps the transposing stores off one bank
const STRIDE_B = BN / 4u + 1u;

var<workgroup> tileA: array<vec4f, BK * STRIDE_A>; // [k][m / 4]
var<workgroup> tileB: array<vec4<TileB>, BK * STRIDE_B>; // [k][n / 4]

fn loadA(block: u32, firstM: u32, firstK: u32, endK: u32) {
  // A 4 x 4 block of A, as four vectors along m. Neighbouring invocations read neighbouring memory in both modes.
  var v: array<vec4f, 4>;
  var mBlock: u32;
  var kBlock: u32;
  if (A_MODE == 0u) {
    mBlock = block / (BK / 4u);
    kBlock = block % (BK / 4u);
    let k = firstK + kBlock * 4u;
    var r: array<vec4f, 4>;
    for (var i = 0u; i < 4u; i++) {
      let m = firstM + mBlock * 4u + i;
      r[i] = a4(m, k, p.m, endK);
      if (DROPOUT == 1u) { r[i] *= mask4(m, k); }
    }
    for (var i = 0u; i < 4u; i++) { v[i] = vec4f(r[0][i], r[1][i], r[2][i], r[3][i]); }
  } else {
    mBlock = block % (BM / 4u);
    kBlock = block / (BM / 4u);
    for (var i = 0u; i < 4u; i++) { v[i] = a4(firstK + kBlock * 4u + i, firstM + mBlock * 4u, endK, p.m); }
  }
  for (var i = 0u; i < 4u; i++) { tileA[(kBlock * 4u + i) * STRIDE_A + mBlock] = v[i]; }
}

fn loadB(block: u32, firstN: u32, firstK: u32, endK: u32) {
  var v: array<vec4f, 4>;
  var nBlock: u32;
  var kBlock: u32;
  if (B_MODE == 0u) {
    nBlock = block / (BK / 4u);
    kBlock = block % (BK / 4u);
    let k = firstK + kBlock * 4u;
    var r: array<vec4f, 4>;
    for (var i = 0u; i < 4u; i++) { r[i] = b4(firstN + nBlock * 4u + i, k, p.n, endK); }
    for (var i = 0u; i < 4u; i++) { v[i] = vec4f(r[0][i], r[1][i], r[2][i], r[3][i]); }
  } else {
    nBlock = block % (BN / 4u);
    kBlock = block / (BN / 4u);
    for (var i = 0u; i < 4u; i++) {
      let k = firstK + kBlock * 4u + i;
      v[i] = b4(k, firstN + nBlock * 4u, endK, p.n);
      if (DROPOUT == 2u) { v[i] *= mask4(k, firstN + nBlock * 4u); }
    }
  }
  for (var i = 0u; i < 4u; i++) { tileB[(kBlock * 4u + i) * STRIDE_B + nBlock] = vec4<TileB>(v[i]); }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let firstM = group.x * BM;
  let firstN = group.y * BN;
  let beginK = group.z * p.kPerSplit;
  let endK = min(p.k, beginK + p.kPerSplit);
  let laneM = lane / GROUPS_N;
  let laneN = lane % GROUPS_N;
  var sums: array<vec4f, TM * TN / 4u>; // [TM][TN / 4]
  for (var k0 = beginK; k0 < endK; k0 += BK) {
    for (var block = lane; block < BLOCKS_A + BLOCKS_B; block += THREADS) {
      if (block < BLOCKS_A) { loadA(block, firstM, k0, endK); } else { loadB(block - BLOCKS_A, firstN, k0, endK); }
    }
    workgroupBarrier();
    for (var k = 0u; k < BK; k++) {
      var bs: array<vec4f, TN / 4u>;
      for (var j = 0u; j < TN / 4u; j++) { bs[j] = vec4f(tileB[k * STRIDE_B + j * GROUPS_N + laneN]); }
      for (var i = 0u; i < TM / 4u; i++) {
        let as_ = tileA[k * STRIDE_A + i * GROUPS_M + laneM];
        for (var j = 0u; j < TN / 4u; j++) {
          sums[(4u * i) * (TN / 4u) + j] += as_.x * bs[j];
          sums[(4u * i + 1u) * (TN / 4u) + j] += as_.y * bs[j];
          sums[(4u * i + 2u) * (TN / 4u) + j] += as_.z * bs[j];
          sums[(4u * i + 3u) * (TN / 4u) + j] += as_.w * bs[j];
        }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < TM; i++) {
    let m = firstM + ((i / 4u) * GROUPS_M + laneM) * 4u + (i & 3u);
    for (var j = 0u; j < TN / 4u; j++) {
      let n = firstN + (j * GROUPS_N + laneN) * 4u;
      if (SPLIT == 1u) { emitPartial(group.z, m, n, sums[i * (TN / 4u) + j]); } else { emit4(m, n, sums[i * (TN / 4u) + j]); }
    }
  }
}
`,
  "gemv": `// C [M, N] = epilogue(A B^T) for at most ROWS rows of A, B [N, K] row by row: token generation, where a tile would be
// almost empty and the weights' own bytes are the cost. 32 lanes share an output column, four columns a workgroup.

const LANES = 32u;
var<workgroup> sums: array<f32, ROWS * 4u * LANES>; // [row][column][lane]

@compute @workgroup_size(LANES, 4)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let first = (group.y * grid.x + group.x) * 4u;
  let n = first + local.y;
  var acc: array<f32, ROWS>;
  if (n < p.n) {
    for (var k = local.x * 4u; k < p.k; k += LANES * 4u) {
      let w = b4(n, k, p.n, p.k);
      for (var m = 0u; m < ROWS; m++) {
        var x = a4(m, k, p.m, p.k);
        if (DROPOUT == 1u) { x *= mask4(m, k); }
        acc[m] += dot(x, w);
      }
    }
  }
  for (var m = 0u; m < ROWS; m++) { sums[(m * 4u + local.y) * LANES + local.x] = acc[m]; }
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local.x < half) {
      for (var m = 0u; m < ROWS; m++) {
        let at = (m * 4u + local.y) * LANES + local.x;
        sums[at] += sums[at + half];
      }
    }
  }
  workgroupBarrier();
  let m = local.x;
  if (local.y == 0u && m < ROWS) {
    let at = m * 4u * LANES;
    emit4(m, first, vec4f(sums[at], sums[at + LANES], sums[at + 2u * LANES], sums[at + 3u * LANES]));
  }
}
`,
  "half-copy": `// y = x in f16, times a power of two when SCALED: the one that brings the largest magnitude (largest[0], by its bits) to
// [2^4, 2^5). Elements from n to "padded" become zero. One invocation a word, two elements.

struct Params { x: u32, largest: u32, y: u32, n: u32, padded: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> largest: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

fn element(i: u32, factor: f32) -> f32 {
  if (i >= p.n) { return 0.0; }
  return clamp(x[p.x + i] * factor, -65504.0, 65504.0);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  var factor = 1.0;
  if (SCALED == 1u) { factor = halfFactor(largest[p.largest]); }
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (2u * at < p.padded) { y[p.y + at] = pack2x16float(vec2f(element(2u * at, factor), element(2u * at + 1u, factor))); }
  }
}
`,
  "half-factor": `// The power of two that brings a number with these bits to [2^4, 2^5), so that gradients far below f16's range keep their
// digits and products with them stay within it; 1 where there is none.

fn halfFactor(bits: u32) -> f32 {
  let exponent = 258u - (bits >> 23u); // 127 + 4 - (e - 127)
  return bitcast<f32>(select(0x3f800000u, exponent << 23u, bits != 0u && exponent > 3u && exponent < 255u));
}
`,
  "multiply-high": `// High word of the product of two 32-bit integers, put together from 16-bit halves: WGSL has no 64-bit integers.

fn mulHigh(a: u32, b: u32) -> u32 {
  let aLow = a & 0xffffu;
  let aHigh = a >> 16u;
  let bLow = b & 0xffffu;
  let bHigh = b >> 16u;
  let mid1 = aHigh * bLow + ((aLow * bLow) >> 16u);
  let mid2 = aLow * bHigh + (mid1 & 0xffffu);
  return aHigh * bHigh + (mid1 >> 16u) + (mid2 >> 16u);
}
`,
  "no-dropout": `// Stands in for dropout-mask.wgsl in products without dropout.

fn mask4(row: u32, column: u32) -> vec4f { return vec4f(1.0); }
`,
  "operand-a-vec4": `// Four neighbouring elements of f32 operand A whose rows start at multiples of four; its offset counts vectors.

@group(0) @binding(1) var<storage, read> a: array<vec4f>;

fn a4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row < rows && column < columns) { return a[p.a + ((row * p.lda + column) >> 2u)]; }
  return vec4f(0.0);
}
`,
  "operand-a": `// Four neighbouring elements of f32 operand A, zero outside its "rows" x "columns". Any alignment.

@group(0) @binding(1) var<storage, read> a: array<f32>;

fn a4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  var v = vec4f(0.0);
  if (row < rows) {
    let at = p.a + row * p.lda + column;
    if (column < columns) { v.x = a[at]; }
    if (column + 1u < columns) { v.y = a[at + 1u]; }
    if (column + 2u < columns) { v.z = a[at + 2u]; }
    if (column + 3u < columns) { v.w = a[at + 3u]; }
  }
  return v;
}
`,
  "operand-b-f32-vec4": `// Four neighbouring elements of f32 operand B whose rows start at multiples of four; its offset counts vectors.

@group(0) @binding(5) var<storage, read> b: array<vec4f>;

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row < rows && column < columns) { return b[p.b + ((row * p.ldb + column) >> 2u)]; }
  return vec4f(0.0);
}
`,
  "operand-b-f32": `// Four neighbouring elements of f32 operand B, zero outside its "rows" x "columns". Any alignment.

@group(0) @binding(5) var<storage, read> b: array<f32>;

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  var v = vec4f(0.0);
  if (row < rows) {
    let at = p.b + row * p.ldb + column;
    if (column < columns) { v.x = b[at]; }
    if (column + 1u < columns) { v.y = b[at + 1u]; }
    if (column + 2u < columns) { v.z = b[at + 2u]; }
    if (column + 3u < columns) { v.w = b[at + 3u]; }
  }
  return v;
}
`,
  "operand-b-half-vec4": `// Four neighbouring elements of a 16-bit operand B (HALF 1: bf16, 2: f16) whose rows start at multiples of four; its
// offset counts groups of four.

@group(0) @binding(5) var<storage, read> b: array<vec2u>;

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row >= rows || column >= columns) { return vec4f(0.0); }
  let words = b[p.b + ((row * p.ldb + column) >> 2u)];
  if (HALF == 1u) {
    return bitcast<vec4f>(vec4u(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
  }
  return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}
`,
  "operand-b-half": `// Four neighbouring elements of a 16-bit operand B (HALF 1: bf16, 2: f16), any alignment; its offset counts elements.

@group(0) @binding(5) var<storage, read> b: array<u32>;

fn halfAt(at: u32) -> f32 {
  let word = b[at >> 1u];
  let half = select(word & 0xffffu, word >> 16u, (at & 1u) == 1u);
  if (HALF == 1u) { return bitcast<f32>(half << 16u); }
  return unpack2x16float(half).x;
}

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  var v = vec4f(0.0);
  if (row < rows) {
    let at = p.b + row * p.ldb + column;
    if (column < columns) { v.x = halfAt(at); }
    if (column + 1u < columns) { v.y = halfAt(at + 1u); }
    if (column + 2u < columns) { v.z = halfAt(at + 2u); }
    if (column + 3u < columns) { v.w = halfAt(at + 3u); }
  }
  return v;
}
`,
  "operand-b-quantized": `// Four neighbouring elements of a quantised operand B: 4-bit codes (even element in the high nibble) into a codebook of
// 16, times the scale of their block. Dequantised here, on the way to a tile; the matrix never exists in device memory.
// Codes start at element p.firstElement, a multiple of 8, of the whole matrix; scales at its block 0.

@group(0) @binding(5) var<storage, read> codes: array<u32>;

fn elementOf(index: u32) -> f32 {
  let word = codes[p.b + (index >> 3u)];
  let nibble = (word >> (((index >> 1u) & 3u) * 8u + select(4u, 0u, (index & 1u) == 1u))) & 15u;
  return codebook[nibble >> 2u][nibble & 3u] * blockScale((index + p.firstElement) / p.blockSize);
}

fn b4(row: u32, column: u32, rows: u32, columns: u32) -> vec4f {
  if (row >= rows || column >= columns) { return vec4f(0.0); }
  let index = row * p.ldb + column;
  if ((index & 3u) == 0u && column + 3u < columns) {
    // Blocks hold a multiple of four elements, so the four share a scale.
    let bits = codes[p.b + (index >> 3u)] >> ((index & 4u) * 4u);
    let n = vec4u(bits >> 4u, bits, bits >> 12u, bits >> 8u) & vec4u(15u);
    let values = vec4f(
      codebook[n.x >> 2u][n.x & 3u], codebook[n.y >> 2u][n.y & 3u],
      codebook[n.z >> 2u][n.z & 3u], codebook[n.w >> 2u][n.w & 3u]);
    return values * blockScale((index + p.firstElement) / p.blockSize);
  }
  var v = vec4f(0.0);
  v.x = elementOf(index);
  if (column + 1u < columns) { v.y = elementOf(index + 1u); }
  if (column + 2u < columns) { v.z = elementOf(index + 2u); }
  if (column + 3u < columns) { v.w = elementOf(index + 3u); }
  return v;
}
`,
  "pack-rows": `// Makes operand A of a subgroup matrix product: rows of f32, "pitch" elements apart, become rows of f16 filled with zeros to a multiple of eight, scaled
// by a power of two so that each row's largest magnitude lies in [2^12, 2^13): gradients of 1e-8 and activations of 1e5
// both keep their 11 bits. One workgroup a row. The packed buffer, in words of 32 bits:
//
//   | factor for B | 3 unused | inverse scale of each row ... padded to 4 | rows, "stride" words each |
//
// With COMMON the scale is one for all rows, from the largest magnitude of the whole matrix (largest[0], by its bits), and
// so is B's factor, from largest[64]: products over rows cannot take a row's scale out of their sum.

struct Params { x: u32, largest: u32, y: u32, rows: u32, width: u32, pitch: u32, stride: u32, first: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> largest: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

var<workgroup> tops: array<u32, 128>;

/// Bits of 2^(12 - exponent of the number with these bits); 1 where that is no normal number.
fn scaleBits(bits: u32) -> u32 {
  let exponent = 266u - (bits >> 23u); // 127 + 12 - (e - 127)
  return select(0x3f800000u, exponent << 23u, bits != 0u && exponent > 0u && exponent < 255u);
}

fn inverseBits(scale: u32) -> u32 { return (254u << 23u) - scale; }

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let start = p.x + row * p.pitch;
  var scale = 0u;
  if (COMMON == 1u) {
    scale = scaleBits(largest[p.largest]);
  } else {
    var top = 0u;
    for (var c = lane; c < p.width; c += 128u) { top = max(top, bitcast<u32>(x[start + c]) & 0x7fffffffu); }
    tops[lane] = top;
    for (var half = 64u; half > 0u; half >>= 1u) {
      workgroupBarrier();
      if (lane < half) { tops[lane] = max(tops[lane], tops[lane + half]); }
    }
    workgroupBarrier();
    scale = scaleBits(tops[0]);
  }
  if (lane == 0u) {
    if (COMMON == 0u) {
      y[p.y + 4u + row] = inverseBits(scale);
      if (row == 0u) { y[p.y] = 0x3f800000u; }
    } else if (row == 0u) {
      let other = scaleBits(largest[p.largest + 64u]);
      y[p.y] = other;
      y[p.y + 4u] = bitcast<u32>(bitcast<f32>(inverseBits(scale)) * bitcast<f32>(inverseBits(other)));
    }
  }
  let factor = bitcast<f32>(scale);
  for (var word = lane; word < p.stride; word += 128u) {
    let c = 2u * word;
    var pair = vec2f(0.0);
    if (c < p.width) { pair.x = x[start + c] * factor; }
    if (c + 1u < p.width) { pair.y = x[start + c + 1u] * factor; }
    y[p.y + p.first + row * p.stride + word] = pack2x16float(pair);
  }
}
`,
  "philox": `// Philox 4x32-10, bit for bit as util/rng.ts (Salmon et al. 2011). Goes with multiply-high.wgsl.

/// The four words of block "block" in stream (seed, stream); elements 4*block .. 4*block+3. "rounds" is 10: a bound
/// that only the host knows keeps compilers from unrolling it, many times over where masks are made four at a time.
fn philox(block: u32, stream: u32, seedLow: u32, seedHigh: u32, rounds: u32) -> vec4u {
  var c = vec4u(block, 0u, stream, 0u);
  var key = vec2u(seedLow, seedHigh);
  for (var round = 0u; round < rounds; round++) {
    let high0 = mulHigh(0xd2511f53u, c.x);
    let low0 = 0xd2511f53u * c.x;
    let high1 = mulHigh(0xcd9e8d57u, c.z);
    let low1 = 0xcd9e8d57u * c.z;
    c = vec4u(high1 ^ c.y ^ key.x, low1, high0 ^ c.w ^ key.y, low0);
    key += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}
`,
  "product-params": `// Parameters of every matrix product C [M, N] = A B: where operands start, their row lengths (ld*), the epilogue and the
// dropout mask. Used by gemm.wgsl, gemv.wgsl and reduce-splits.wgsl; the host's side is products.ts.
//
// A_MODE 0: A[m, k] at a[m * lda + k]; 1: at a[k * lda + m]. B_MODE 0: B[n, k] at b[n * ldb + k]; 1: at b[k * ldb + n].
// DROPOUT: 0 none; the mask multiplies 1 A's elements, 2 B's, 3 the product's. Element numbers run along its rows.

struct Params {
  a: u32, c: u32, bias: u32, residual: u32, b: u32, b2: u32, b3: u32,
  m: u32, n: u32, k: u32, lda: u32, ldb: u32, ldc: u32,
  kPerSplit: u32, splitStride: u32,
  flags: u32, scale: f32,
  blockSize: u32, firstElement: u32, nestedBlockSize: u32, nestedOffset: f32,
  seedLow: u32, seedHigh: u32, stream: u32, threshold: u32, keepScale: f32, maskStride: u32, maskFirst: u32, rounds: u32, firstRow: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
`,
  "quantize-codes": `// Second stage of 4-bit quantisation: one invocation makes one word of codes, eight elements. An element's code is that of
// the nearest codebook value: codeByRank[number of thresholds below x / absmax], quant/codebook.ts. In whole blocks x is
// multiplied by the rounded inverse, in a partial last block divided, as bitsandbytes does.

struct Params {
  x: u32, absmax: u32, inverse: u32, codes: u32,
  n: u32, blockSize: u32, codeByRankLow: u32, codeByRankHigh: u32, // eight codes of four bits each
  thresholds: array<vec4u, 4>, // 15, by their bits, and one never passed
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> absmax: array<u32>;
@group(0) @binding(3) var<storage, read> inverse: array<u32>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;

fn codeOf(bits: u32) -> u32 {
  let value = orderOf(bits);
  var rank = 0u;
  for (var i = 0u; i < 15u; i++) { rank += select(0u, 1u, value > orderOf(p.thresholds[i >> 2u][i & 3u])); }
  return (select(p.codeByRankLow, p.codeByRankHigh, rank >= 8u) >> ((rank & 7u) * 4u)) & 15u;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let word = (group.y * grid.x + group.x) * 64u + lane;
  let first = word * 8u;
  if (first >= p.n) { return; }
  var packed = 0u;
  for (var i = 0u; i < 8u; i++) {
    let at = first + i;
    var code = 0u;
    if (at < p.n) {
      let block = at / p.blockSize;
      let bits = elementBits(at);
      if ((block + 1u) * p.blockSize <= p.n) {
        code = codeOf(multiplyBits(bits, inverse[p.inverse + block]));
      } else {
        code = codeOf(divideBits(bits, absmax[p.absmax + block]));
      }
    } else if (at == p.n && (at & 1u) == 1u) {
      code = codeOf(0u); // the padding nibble of an odd count encodes zero
    }
    packed |= code << ((i >> 1u) * 8u + select(4u, 0u, (i & 1u) == 1u));
  }
  codes[p.codes + word] = packed;
}
`,
  "quantize-element": `// Element i of x as the bits of an f32. KIND: 0 f32, 1 bf16, 2 f16. The including shader declares x and p.x.

fn elementBits(i: u32) -> u32 {
  let at = p.x + i;
  if (KIND == 0u) { return x[at]; }
  let half = (x[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu;
  if (KIND == 1u) { return half << 16u; }
  return f32FromF16(half);
}
`,
  "quantize-scales": `// First stage of 4-bit quantisation: each block's largest magnitude, and the factor that its elements are multiplied by.
// Magnitudes compare as integers by their bits. One invocation a block. KIND of x: 0 f32, 1 bf16, 2 f16.

struct Params { x: u32, absmax: u32, inverse: u32, n: u32, blockSize: u32, blocks: u32, smallest: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> absmax: array<u32>;
@group(0) @binding(3) var<storage, read_write> inverse: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let block = (group.y * grid.x + group.x) * 64u + lane;
  if (block >= p.blocks) { return; }
  let start = block * p.blockSize;
  let end = min(p.n, start + p.blockSize);
  var largest = 0u;
  for (var i = start; i < end; i++) { largest = max(largest, elementBits(i) & 0x7fffffffu); }
  let scale = max(largest, p.smallest);
  // The last block, when partial, stores the floored scale.
  absmax[p.absmax + block] = select(scale, largest, end - start == p.blockSize);
  inverse[p.inverse + block] = divideBits(0x3f800000u, scale);
}
`,
  "reduce-largest": `// Largest magnitude of n numbers, by bits: workgroup g takes elements [g * span, (g + 1) * span) into partial[g]. Run again
// over the partial results with one workgroup for the whole.

struct Params { x: u32, partial: u32, n: u32, span: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> partial: array<u32>;

var<workgroup> tops: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let g = group.y * grid.x + group.x;
  let start = g * p.span;
  let end = min(p.n, start + p.span);
  var top = 0u;
  for (var i = start + lane; i < end; i += 256u) { top = max(top, x[p.x + i] & 0x7fffffffu); }
  tops[lane] = top;
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { tops[lane] = max(tops[lane], tops[lane + half]); }
  }
  if (lane == 0u && start < p.n) { partial[p.partial + g] = tops[0]; }
}
`,
  "reduce-partials": `// Second stage of a reduction: out = sum of n partial sums, by one workgroup.

struct Params { partial: u32, out: u32, n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> partial: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < p.n; i += 256u) { sum += partial[p.partial + i]; }
  sums[lane] = sum;
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  if (lane == 0u) { out[p.out] = sums[0]; }
}
`,
  "reduce-splits": `// Adds the partial products that gemm.wgsl made of slices of K, in order, and finishes them through the epilogue.
// A is the partials: slice s starts at a[s * splitStride], p.k slices.

@group(0) @binding(1) var<storage, read> a: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let quads = (p.n + 3u) / 4u;
  let at = (group.y * grid.x + group.x) * 64u + lane;
  let m = at / quads;
  let n = (at % quads) * 4u;
  if (m >= p.m) { return; }
  var sum = vec4f(0.0);
  for (var s = 0u; s < p.k; s++) {
    let origin = p.a + s * p.splitStride + m * p.n + n;
    for (var i = 0u; i < 4u; i++) { if (n + i < p.n) { sum[i] += a[origin + i]; } }
  }
  emit4(m, n, sum);
}
`,
  "reduce": `// First stage of a reduction: workgroup g sums elements [g * SPAN, (g + 1) * SPAN) into partial[g]. OP 0 sums, 1 sums
// squares, 2 counts NaN and infinities (by bits: a shader may take every float to be finite). KIND: 0 f32, 1 bf16, 2 f16.

struct Params { x: u32, partial: u32, n: u32, span: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;

var<workgroup> sums: array<f32, 256>;

fn term(at: u32) -> f32 {
  if (KIND == 0u) {
    let bits = x[at];
    if (OP == 2u) { return select(0.0, 1.0, (bits & 0x7f800000u) == 0x7f800000u); }
    let value = bitcast<f32>(bits);
    if (OP == 1u) { return value * value; }
    return value;
  }
  let half = (x[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu;
  let exponent = select(0x7c00u, 0x7f80u, KIND == 1u);
  return select(0.0, 1.0, (half & exponent) == exponent);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let g = group.y * grid.x + group.x;
  let start = g * p.span;
  let end = min(p.n, start + p.span);
  var sum = 0.0;
  for (var i = start + lane; i < end; i += 256u) { sum += term(p.x + i); }
  sums[lane] = sum;
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  if (lane == 0u && start < p.n) { partial[p.partial + g] = sums[0]; }
}
`,
  "rms-norm-backward": `// dx_c = r w_c dy_c - x_c r^3 / C * sum_j(x_j w_j dy_j), written or added; one workgroup of WG lanes a row.
// The gradient of w is column-sums.wgsl.

struct Params { x: u32, w: u32, rstd: u32, dy: u32, dx: u32, rows: u32, width: u32, accumulate: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

var<workgroup> sums: array<f32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.width;
  var sum = 0.0;
  for (var c = lane; c < p.width; c += WG) {
    sum += x[p.x + start + c] * w[p.w + c] * dy[p.dy + start + c];
  }
  sums[lane] = sum;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  let r = rstd[p.rstd + row];
  let projection = sums[0] * r * r * r / f32(p.width);
  for (var c = lane; c < p.width; c += WG) {
    let at = start + c;
    var grad = r * w[p.w + c] * dy[p.dy + at] - x[p.x + at] * projection;
    if (p.accumulate == 1u) { grad += dx[p.dx + at]; }
    dx[p.dx + at] = grad;
  }
}
`,
  "rms-norm": `// y = x * rstd * w with rstd = 1 / sqrt(mean(x^2) + eps); one workgroup of WG lanes a row. Zhang & Sennrich 2019.

struct Params { x: u32, w: u32, y: u32, rstd: u32, rows: u32, width: u32, epsilon: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> rstd: array<f32>;

var<workgroup> sums: array<f32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.width;
  var sum = 0.0;
  for (var c = lane; c < p.width; c += WG) {
    let value = x[p.x + start + c];
    sum += value * value;
  }
  sums[lane] = sum;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  let r = 1.0 / sqrt(sums[0] / f32(p.width) + p.epsilon);
  if (lane == 0u) { rstd[p.rstd + row] = r; }
  for (var c = lane; c < p.width; c += WG) {
    y[p.y + start + c] = x[p.x + start + c] * r * w[p.w + c];
  }
}
`,
  "rope": `// Rotary position embedding in "rotate half" order, in place: y [T, H, D]; direction 1 turns forward, -1 back.
// Su et al. 2021. One invocation a pair (i, i + half); elements of a head from 2 half on stay.

struct Params { positions: u32, cos: u32, sin: u32, y: u32, pairs: u32, heads: u32, width: u32, half: u32, direction: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> positions: array<i32>;
@group(0) @binding(2) var<storage, read> cosines: array<f32>;
@group(0) @binding(3) var<storage, read> sines: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let pair = (group.y * grid.x + group.x) * 256u + lane;
  if (pair >= p.pairs) { return; }
  let i = pair % p.half;
  let row = pair / p.half; // token * heads + head
  let angle = u32(positions[p.positions + row / p.heads]) * p.half + i;
  let c = cosines[p.cos + angle];
  let s = p.direction * sines[p.sin + angle];
  let at = p.y + row * p.width + i;
  let low = y[at];
  let high = y[at + p.half];
  y[at] = low * c - high * s;
  y[at + p.half] = high * c + low * s;
}
`,
  "scale-in-place": `// y *= factor.

struct Params { y: u32, n: u32, factor: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (group.y * grid.x + group.x) * 1024u + lane;
  for (var i = 0u; i < 4u; i++) {
    let at = start + 256u * i;
    if (at < p.n) { y[p.y + at] *= p.factor; }
  }
}
`,
  "scales-nested": `// Block scales of a doubly quantised matrix: codebook256[absmax_b] * absmax2[b / nestedBlockSize] + nestedOffset.
// Dettmers et al. 2023, section 3. absmax's offset counts bytes.

@group(0) @binding(6) var<storage, read> absmax: array<u32>;
@group(0) @binding(7) var<storage, read> outer: array<f32>;
@group(0) @binding(8) var<uniform> codebook: array<vec4f, 4>;
@group(0) @binding(9) var<uniform> scaleCodebook: array<vec4f, 64>;

fn blockScale(block: u32) -> f32 {
  let at = p.b2 + block;
  let code = (absmax[at >> 2u] >> ((at & 3u) * 8u)) & 255u;
  return scaleCodebook[code >> 2u][code & 3u] * outer[p.b3 + block / p.nestedBlockSize] + p.nestedOffset;
}
`,
  "scales-plain": `// Block scales of a quantised matrix, stored as f32.

@group(0) @binding(6) var<storage, read> absmax: array<f32>;
@group(0) @binding(7) var<uniform> codebook: array<vec4f, 4>;

fn blockScale(block: u32) -> f32 { return absmax[p.b2 + block]; }
`,
  "scatter-rows": `// y[index[i]] = x[i]. Only rows [first, first + count) of y are bound; other indices are skipped.

struct Params { x: u32, index: u32, y: u32, rows: u32, width: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> index: array<i32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.y * grid.x + group.x;
  if (row >= p.rows) { return; }
  let to = u32(index[p.index + row]) - p.first;
  if (to >= p.count) { return; }
  for (var c = lane; c < p.width; c += 128u) {
    y[p.y + to * p.width + c] = x[p.x + row * p.width + c];
  }
}
`,
  "write-bytes": `// Writes the 1 to 3 bytes that end an upload whose length is no multiple of four, leaving the rest of the word alone.

struct Params { y: u32, mask: u32, value: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(1)
fn main() {
  y[p.y] = (y[p.y] & ~p.mask) | (p.value & p.mask);
}
`,
} as const;

export type KernelSource = keyof typeof kernelSources;
