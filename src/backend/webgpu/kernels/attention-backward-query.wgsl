// dQ of 32 queries of one head: dQ = dS K over the tiles of keys they see. For the sums, lane l owns query l / QUADS and
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
