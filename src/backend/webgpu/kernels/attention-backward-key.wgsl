// dK and dV of 32 keys of one key/value head: dV = P^T dOut and dK = dS^T Q, over every head of its group and every tile
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
