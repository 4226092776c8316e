// The dropout mask of four neighbouring elements: 0, or 1/(1-p) where kept. One Philox block when they share it.

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
