// loss[i] = -log softmax(logits[i])[targets[i]], one workgroup a row; with GRAD the logits become their gradient,
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
