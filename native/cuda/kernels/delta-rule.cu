// The gated delta rule and its backward pass: launched in the order unit, columns; and back: unit, columns (errors), columns
// back, rows both ways, scalars, decays, unit back. Yang et al. 2024, "Gated delta networks".
#include "delta-rule.h"

struct DeltaUnitArguments {
  const float* qkv;  // [tokens, channels]
  float* unit;       // [tokens, 2 kHeads, keyWidth]: queries, then keys
  u32 rows, channels, kHeads, keyWidth;
  float scale, epsilon;
};

/** Unit keys and scaled unit queries; a warp a head's row. */
KERNEL(deltaUnit, DeltaUnitArguments, 256, 1, 0) {
  const u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= a.rows) return;
  const u32 head = row % (2 * a.kHeads);
  const float* from = a.qkv + (u64)(row / (2 * a.kHeads)) * a.channels + head * a.keyWidth;
  float sum = 0;
  for (u32 i = lane; i < a.keyWidth; i += 32) sum = fmaf(from[i], from[i], sum);
  const float factor = (head < a.kHeads ? a.scale : 1.0f) / sqrtf(warpSum(sum) + a.epsilon);
  for (u32 i = lane; i < a.keyWidth; i += 32) a.unit[(u64)row * a.keyWidth + i] = from[i] * factor;
}

struct DeltaColumnsArguments {
  const float* unit;
  const float* qkv;
  const float* g;
  const float* beta;
  const i32* table;
  float* state;  // [rows, vHeads, keyWidth, valueWidth] or absent
  float* y;      // [tokens, vHeads, valueWidth]
  u32 channels, kHeads, vHeads, keyWidth, valueWidth, count, tiles, errors;
};

KERNEL(deltaColumns128, DeltaColumnsArguments, 128, 1, 0) { walkColumns<32>(a); }
KERNEL(deltaColumns256, DeltaColumnsArguments, 128, 1, 0) { walkColumns<64>(a); }

struct DeltaColumnsBackArguments {
  const float* unit;
  const float* dOut;
  const float* g;
  const float* beta;
  const i32* table;
  float* x;     // [tokens, vHeads, valueWidth]
  float* dqkv;  // the values' columns
  u32 channels, kHeads, vHeads, keyWidth, valueWidth, tiles;
};

KERNEL(deltaColumnsBack128, DeltaColumnsBackArguments, 128, 1, 0) { walkColumnsBack<32>(a); }
KERNEL(deltaColumnsBack256, DeltaColumnsBackArguments, 128, 1, 0) { walkColumnsBack<64>(a); }

struct DeltaRowsArguments {
  const float* unit;
  const float* dOut;
  const float* g;
  const float* beta;
  const i32* table;
  const float* errors;
  const float* x;
  float* queries;  // [tokens, vHeads, keyWidth] each
  float* read;
  float* written;
  u32 kHeads, vHeads, keyWidth, valueWidth, tiles;
};

KERNEL(deltaRows128, DeltaRowsArguments, 128, 1, 0) { walkRows<32, false>(a); }
KERNEL(deltaRows256, DeltaRowsArguments, 128, 1, 0) { walkRows<64, false>(a); }
KERNEL(deltaRowsBack128, DeltaRowsArguments, 128, 1, 0) { walkRows<32, true>(a); }
KERNEL(deltaRowsBack256, DeltaRowsArguments, 128, 1, 0) { walkRows<64, true>(a); }

struct DeltaScalarsArguments {
  const float* unit;
  const float* errors;
  const float* x;
  const float* queries;
  const float* read;
  const float* written;
  float* dg;
  float* dBeta;
  u32 gates, kHeads, vHeads, keyWidth, valueWidth;
};

/** dBeta = x.error, and what a token adds to the gradient of decays' logs up to it: q.dq + k.read - k.written. A warp a gate. */
KERNEL(deltaScalars, DeltaScalarsArguments, 256, 1, 0) {
  const u32 gate = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (gate >= a.gates) return;
  const u32 keyHead = gate % a.vHeads * a.kHeads / a.vHeads;
  const float* query = a.unit + ((u64)(gate / a.vHeads) * 2 * a.kHeads + keyHead) * a.keyWidth;
  const float* key = query + a.kHeads * a.keyWidth;
  float rate = 0, decay = 0;
  for (u32 i = lane; i < a.valueWidth; i += 32) {
    const u64 at = (u64)gate * a.valueWidth + i;
    rate = fmaf(a.errors[at], a.x[at], rate);
  }
  for (u32 i = lane; i < a.keyWidth; i += 32) {
    const u64 at = (u64)gate * a.keyWidth + i;
    decay = fmaf(query[i], a.queries[at], decay);
    decay = fmaf(key[i], a.read[at] - a.written[at], decay);
  }
  rate = warpSum(rate);
  decay = warpSum(decay);
  if (lane > 0) return;
  a.dBeta[gate] = rate;
  a.dg[gate] = decay;
}

struct DeltaDecaysArguments {
  const i32* table;
  float* dg;
  u32 vHeads;
};

/**
 * dg of a token becomes the sum of what it and the later tokens of its segment left in dg; a segment's first has nothing
 * that could decay. The sum of many terms that cancel, with its rounding errors put back (Kahan). A warp a segment's head.
 */
KERNEL(deltaDecays, DeltaDecaysArguments, 32, 1, 0) {
  const i32 start = a.table[4 * blockIdx.x], length = a.table[4 * blockIdx.x + 1], lane = (i32)threadIdx.x;
  float sum = 0, lost = 0;
  for (i32 back = 1; back <= length; back += 32) {
    const i32 own = back + lane;
    float* at = a.dg + (u64)(start + length - own) * a.vHeads + blockIdx.y;
    float value = own <= length ? *at : 0.0f;
    const float given = value;
    _Pragma("unroll 1")
    for (int i = 0; i < 32; i++) {
      const float term = __shfl_sync(kWholeWarp, given, i) - lost, next = sum + term;
      lost = (next - sum) - term;
      sum = next;
      if (i == lane) value = own == length ? 0.0f : sum;
    }
    if (own <= length) *at = value;
  }
}

struct DeltaUnitBackArguments {
  const float* qkv;
  const float* queries;
  const float* read;
  const float* written;
  float* dqkv;  // the queries' and keys' columns
  u32 rows, channels, kHeads, vHeads, keyWidth;
  float scale, epsilon;
};

/** Gradients of queries and keys from their unit vectors', summed over the value heads that read a key head. A warp a head's row. */
KERNEL(deltaUnitBack, DeltaUnitBackArguments, 256, 1, 0) {
  const u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= a.rows) return;
  const u32 t = row / (2 * a.kHeads), head = row % (2 * a.kHeads), readers = a.vHeads / a.kHeads;
  const bool isKey = head >= a.kHeads;
  const u64 first = ((u64)t * a.vHeads + head % a.kHeads * readers) * a.keyWidth;
  const float* from = a.qkv + (u64)t * a.channels + head * a.keyWidth;
  float* to = a.dqkv + (u64)t * a.channels + head * a.keyWidth;
  float squares = 0, along = 0;
  for (u32 i = lane; i < a.keyWidth; i += 32) {
    float grad = 0;
    for (u32 h = 0; h < readers; h++) {
      const u64 at = first + (u64)h * a.keyWidth + i;
      grad += isKey ? a.read[at] + a.written[at] : a.queries[at];
    }
    squares = fmaf(from[i], from[i], squares);
    along = fmaf(from[i], grad, along);
    to[i] = grad;
  }
  const float inverse = 1.0f / sqrtf(warpSum(squares) + a.epsilon);
  along = warpSum(along) * inverse * inverse;
  const float factor = (isKey ? 1.0f : a.scale) * inverse;
  for (u32 i = lane; i < a.keyWidth; i += 32) to[i] = (to[i] - from[i] * along) * factor;
}
