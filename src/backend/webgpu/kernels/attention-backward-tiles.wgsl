// What both halves of attention's backward pass share: 32 x 32 tiles of scores recomputed from q, k and the saved
// log-sum-exp (Dao 2022), P = exp(scale q k - lse) and dS = scale P (dOut v - delta), 2 x 2 of each an invocation.
// p.depth is CHUNK / 4: bounds that only the host knows keep compilers from unrolling what takes them minutes.

struct Params {
  q: u32, k: u32, v: u32, dOut: u32, statistics: u32, table: u32, first: u32, second: u32, // dq, or dk and dv
  heads: u32, kvHeads: u32, window: u32, scale: f32, softcap: f32, depth: u32,
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
        let score = capped(scores[at] * p.scale);
        let weight = exp(score - known.x);
        tile.weights[at] = weight;
        tile.slopes[at] = p.scale * capSlope(score) * weight * (slopes[at] - known.y);
      }
    }
  }
  return tile;
}
