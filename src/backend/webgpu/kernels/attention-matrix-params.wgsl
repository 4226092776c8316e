// What the attention kernels on subgroup matrices share. Copies of q, k, v and dOut in f16 lie in one buffer, "halves", at
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
