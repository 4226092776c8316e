// The short depthwise convolution within segments, its gradients, and the inputs that a sequence keeps between passes. A
// segment is (start, length, row of state, total); segments of one row stand side by side and are one stretch of inputs.
#include "../device.h"

struct Stretch {
  i32 first;      // segment that the row's inputs begin with
  i32 start;      // its first token
  bool continues;  // from the row's state
};

FN Stretch stretchOf(const i32* table, i32 segment, bool hasState) {
  i32 first = segment;
  if (hasState) {
    while (first > 0 && table[4 * (first - 1) + 2] == table[4 * segment + 2]) first--;
  }
  return {first, table[4 * first], hasState && table[4 * first + 3] > table[4 * first + 1]};
}

struct CausalConvArguments {
  const float* x;
  const float* w;      // [channels, taps]
  const float* bias;   // [channels] or absent
  const i32* table;
  const float* state;  // [rows, taps, channels] or absent: a segment sees its own tokens alone
  const float* dy;     // absent: y is the result; else dy times the activation's slope there
  float* y;
  u32 channels, taps, silu, tiles;
};

/** A thread a token's channel: blockIdx.x = segment * tiles + 256 of them. */
KERNEL(causalConv, CausalConvArguments, 256, 1, 0) {
  const i32 segment = (i32)(blockIdx.x / a.tiles);
  const u64 at = (u64)(blockIdx.x % a.tiles) * 256 + threadIdx.x;
  const i32 token = (i32)divide(at, a.channels);
  const u32 channel = (u32)(at - (u64)token * a.channels);
  if (token >= a.table[4 * segment + 1]) return;
  const Stretch stretch = stretchOf(a.table, segment, a.state != nullptr);
  const i32 row = a.table[4 * segment] + token, before = row - stretch.start, taps = (i32)a.taps;
  float sum = a.bias ? a.bias[channel] : 0.0f;
  for (i32 i = 0; i < taps; i++) {
    const i32 back = taps - 1 - i;
    float value = 0;
    if (back <= before) {
      value = a.x[(u64)(row - back) * a.channels + channel];
    } else if (stretch.continues) {
      value = a.state[((u64)a.table[4 * segment + 2] * a.taps + (taps + before - back)) * a.channels + channel];
    }
    sum = fmaf(a.w[(u64)channel * a.taps + i], value, sum);
  }
  const u64 to = (u64)row * a.channels + channel;
  const float s = 1.0f / (1.0f + expf(-sum));
  if (a.dy) a.y[to] = a.dy[to] * (a.silu ? s * (1.0f + sum * (1.0f - s)) : 1.0f);
  else a.y[to] = a.silu ? sum * s : sum;
}

struct CausalConvKeepArguments {
  const float* x;
  const i32* table;
  float* state;
  u32 count, channels, taps;
};

/** The last inputs of every row of state, for the next pass: a thread a channel of the last segment of a row, blockIdx.y = it. */
KERNEL(causalConvKeep, CausalConvKeepArguments, 256, 1, 0) {
  const i32 segment = (i32)blockIdx.x, taps = (i32)a.taps;
  const u32 channel = blockIdx.y * 256 + threadIdx.x;
  if (channel >= a.channels) return;
  const i32 row = a.table[4 * segment + 2];
  if ((u32)segment + 1 < a.count && a.table[4 * (segment + 1) + 2] == row) return;
  const Stretch stretch = stretchOf(a.table, segment, true);
  const i32 length = a.table[4 * segment] + a.table[4 * segment + 1] - stretch.start;
  float* own = a.state + (u64)row * a.taps * a.channels + channel;
  // What moves comes from above, so rows may be written in order.
  for (i32 i = 0; i < taps; i++) {
    float value = 0;
    if (length + i >= taps) value = a.x[(u64)(stretch.start + length + i - taps) * a.channels + channel];
    else if (stretch.continues) value = own[(u64)(length + i) * a.channels];
    own[(u64)i * a.channels] = value;
  }
}

struct CausalConvBackwardArguments {
  const float* d;  // the gradient before the activation
  const float* w;
  const i32* table;
  float* dx;
  u32 channels, taps, tiles;
};

/** A thread a token's channel, as causalConv. */
KERNEL(causalConvBackward, CausalConvBackwardArguments, 256, 1, 0) {
  const i32 segment = (i32)(blockIdx.x / a.tiles);
  const u64 at = (u64)(blockIdx.x % a.tiles) * 256 + threadIdx.x;
  const i32 token = (i32)divide(at, a.channels), taps = (i32)a.taps;
  const u32 channel = (u32)(at - (u64)token * a.channels);
  const i32 start = a.table[4 * segment], length = a.table[4 * segment + 1];
  if (token >= length) return;
  float sum = 0;
  for (i32 i = 0; i < taps; i++) {
    const i32 later = token + taps - 1 - i;
    if (later < length)
      sum = fmaf(a.d[(u64)(start + later) * a.channels + channel], a.w[(u64)channel * a.taps + i], sum);
  }
  a.dx[(u64)(start + token) * a.channels + channel] = sum;
}

struct CausalConvWeightsArguments {
  const float* x;
  const float* d;
  const i32* table;
  float* dw;     // [channels, taps] or absent, +=
  float* dBias;  // [channels] or absent, +=
  u32 count, channels, taps;
};

/** A warp row of 8 a channel of 32: blockIdx.x = 32 channels, y = a tap, or behind the last the bias. Eight shares of tokens. */
KERNEL(causalConvWeights, CausalConvWeightsArguments, 256, 1, 0) {
  SHARED_ARRAY(float, sums, 256);
  const u32 channel = blockIdx.x * 32 + threadIdx.x % 32, share = threadIdx.x / 32, tap = blockIdx.y;
  const i32 back = tap < a.taps ? (i32)(a.taps - 1 - tap) : 0;
  float sum = 0;
  if (channel < a.channels) {
    for (u32 n = 0; n < a.count; n++) {
      const i32 start = a.table[4 * n], length = a.table[4 * n + 1];
      for (i32 t = back + (i32)share; t < length; t += 8) {
        const float d = a.d[(u64)(start + t) * a.channels + channel];
        sum = fmaf(d, tap < a.taps ? a.x[(u64)(start + t - back) * a.channels + channel] : 1.0f, sum);
      }
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (share > 0 || channel >= a.channels) return;
  sum = 0;
  for (u32 other = 0; other < 8; other++) sum += sums[32 * other + threadIdx.x];
  if (tap < a.taps) {
    if (a.dw) a.dw[(u64)channel * a.taps + tap] += sum;
  } else if (a.dBias) {
    a.dBias[channel] += sum;
  }
}
