// Makes operand A of a subgroup matrix product over rows (dW = dy^T x): rows of f32, "pitch" elements apart, become rows of f16
// as project-rows.wgsl packs them, but with one scale for all, from the largest magnitude of the whole matrix (largest[0], by
// its bits): such sums run over rows, and a row's own scale could not be taken out of them. B's factor is found likewise, from
// largest[64]. One workgroup a row. The packed buffer, in words of 32 bits:
//
//   | factor for B | 3 unused | inverse of both scales | 3 unused | rows, "stride" words each |

struct Params { x: u32, largest: u32, y: u32, rows: u32, width: u32, pitch: u32, stride: u32, first: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> largest: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

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
  let scale = scaleBits(largest[p.largest]);
  if (lane == 0u && row == 0u) {
    let other = scaleBits(largest[p.largest + 64u]);
    y[p.y] = other;
    y[p.y + 4u] = bitcast<u32>(bitcast<f32>(inverseBits(scale)) * bitcast<f32>(inverseBits(other)));
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
