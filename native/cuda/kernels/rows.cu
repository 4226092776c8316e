// Rows moved by an index: gathered (embedding among them), scattered, and embedding's backward pass, whose sums are taken
// in the order of the tokens. A block takes 1024 columns of a row: blockIdx.x = row, blockIdx.y = columns.
#include "../device.h"

struct GatherRowsArguments {
  const void* x;  // [count, width] of `type`
  const i32* index;
  float* y;
  u32 count, width, type;
};

/** y[i] = x[index[i]]; a row that is not there becomes NaN. */
KERNEL(gatherRows, GatherRowsArguments, 256, 1, 0) {
  const u32 from = (u32)a.index[blockIdx.x];
  UNROLL
  for (u32 n = 0; n < 4; n++) {
    const u32 c = blockIdx.y * 1024 + n * 256 + threadIdx.x;
    if (c >= a.width) continue;
    const float value = from < a.count ? loadAs(a.x, a.type, (u64)from * a.width + c) : notANumber();
    a.y[(u64)blockIdx.x * a.width + c] = value;
  }
}

struct ScatterRowsArguments {
  const float* x;
  const i32* index;
  float* y;  // [count, width]
  u32 count, width;
};

/** y[index[i]] = x[i]. */
KERNEL(scatterRows, ScatterRowsArguments, 256, 1, 0) {
  const u32 to = (u32)a.index[blockIdx.x];
  if (to >= a.count) return;
  UNROLL
  for (u32 n = 0; n < 4; n++) {
    const u32 c = blockIdx.y * 1024 + n * 256 + threadIdx.x;
    if (c < a.width) a.y[(u64)to * a.width + c] = a.x[(u64)blockIdx.x * a.width + c];
  }
}

struct EmbeddingBackwardArguments {
  const i32* ids;
  const float* dy;
  float* dTable;  // [count, width]
  u32 tokens, count, width;
};

/** dTable[ids[t]] += dy[t]: the block of the first token with an id adds them all. */
KERNEL(embeddingBackward, EmbeddingBackwardArguments, 256, 1, 0) {
  const u32 token = blockIdx.x, lane = threadIdx.x % 32;
  const i32 id = a.ids[token];
  if ((u32)id >= a.count) return;
  float earlier = 0;
  for (u32 t = threadIdx.x; t < token; t += 256) {
    if (a.ids[t] == id) earlier = 1;
  }
  if (blockMaximum<256>(earlier) > 0) return;
  float sums[4] = {};
  for (u32 start = token / 32 * 32; start < a.tokens; start += 32) {
    const u32 t = start + lane;
    u32 alike = __ballot_sync(kWholeWarp, t >= token && t < a.tokens && a.ids[t] == id);
    while (alike) {
      const u64 row = (u64)(start + __ffs(alike) - 1) * a.width;
      UNROLL
      for (u32 n = 0; n < 4; n++) {
        const u32 c = blockIdx.y * 1024 + n * 256 + threadIdx.x;
        if (c < a.width) sums[n] += a.dy[row + c];
      }
      alike &= alike - 1;
    }
  }
  UNROLL
  for (u32 n = 0; n < 4; n++) {
    const u32 c = blockIdx.y * 1024 + n * 256 + threadIdx.x;
    if (c < a.width) a.dTable[(u64)id * a.width + c] += sums[n];
  }
}
