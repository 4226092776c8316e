// What the attention kernels on subgroup matrices share. Their inputs are rows [T, heads, D] of f32, which become f16 on their
// way into workgroup memory: WIDTH rows of two inputs at a time, "tiles". STRIPS subgroups of SUBGROUP lanes take MM rows each
// of the other side, whose matrices they keep; matrices are MM x MN x MK.

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
const ROWS = STRIPS * MM;
// Tiles hold eight elements a vector; their rows end in a vector of padding that keeps them off one bank.
const EIGHTS = D / 8u;
const ROW = EIGHTS + 1u;
const SECOND = WIDTH * ROW; // where the second tile starts
// Of slices of MK columns of two inputs' strips, which pass through the same memory.
const SLICE_EIGHTS = MK / 8u;
const SLICE_ROW = SLICE_EIGHTS + 1u;
const SLICES = 2u * ROWS * SLICE_ROW;

const TILES = select(2u * SECOND, SLICES, SLICES > 2u * SECOND);

var<workgroup> tiles: array<vec4u, TILES>;
var<workgroup> scores: array<f32, STRIPS * STRIP>;
var<workgroup> weights: array<f16, STRIPS * STRIP>;

/// Eight elements in f16, times a factor.
fn eightOf(low: vec4f, high: vec4f, factor: f32) -> vec4u {
  let a = clamp(low * factor, vec4f(-65504.0), vec4f(65504.0));
  let b = clamp(high * factor, vec4f(-65504.0), vec4f(65504.0));
  return vec4u(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
}

/// Whether a query at "position" of its segment sees "key".
fn visible(position: u32, key: u32) -> bool {
  return key <= position && (p.window == 0u || key + p.window > position);
}
