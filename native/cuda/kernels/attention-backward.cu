// Attention, backward: dQ by tiles of queries, dK and dV by tiles of keys, on tensor cores (attention-matrix-backward.h) and
// in f32 (attention-exact-backward.h). Blocks are numbered as attention.cu's, those of dK and dV by key/value heads; a
// tile is of 64, for heads above 256 of 16, and the keys' for heads above 128 of 32. Segments have as many queries as keys.
// Not here: delta and the sinks' gradient (attention-rows.cu).
#include "attention-exact-backward.h"
#include "attention-matrix-backward.h"

struct AttentionBackwardArguments {
  const float* q;
  const float* k;
  const float* v;
  const i32* table;
  const float* dOut;
  const float* lse;
  const float* delta;  // [tq, heads]: sums over rows of dOut * out
  float* dq;
  float* dk;
  float* dv;
  u32 heads, kvHeads, width, window;
  u32 tiles;  // of the longest segment
  float scale, softcap;
};

KERNEL(attentionBackwardQuery64, AttentionBackwardArguments, 128, 4, 29184) { backwardByQuery<64, 32, 4, 1>(a); }
KERNEL(attentionBackwardQuery128, AttentionBackwardArguments, 128, 3, 57856) { backwardByQuery<128, 32, 4, 1>(a); }
KERNEL(attentionBackwardQuery256, AttentionBackwardArguments, 128, 1, 90368) { backwardByQuery<256, 16, 4, 1>(a); }
KERNEL(attentionBackwardQuery512, AttentionBackwardArguments, 128, 1, 82176) { backwardByQuery<512, 16, 1, 4>(a); }
KERNEL(attentionBackwardKey64, AttentionBackwardArguments, 128, 3, 34048) { backwardByKey<64, 32, 4, 1>(a); }
KERNEL(attentionBackwardKey128, AttentionBackwardArguments, 128, 2, 66816) { backwardByKey<128, 32, 4, 1>(a); }
KERNEL(attentionBackwardKey256, AttentionBackwardArguments, 128, 1, 66176) { backwardByKey<256, 16, 2, 2>(a); }
KERNEL(attentionBackwardKey512, AttentionBackwardArguments, 128, 1, 98944) { backwardByKey<512, 16, 1, 4>(a); }
KERNEL(attentionExactQuery, AttentionBackwardArguments, 256, 1, 35840) { exactByQuery<2>(a); }
KERNEL(attentionExactKey, AttentionBackwardArguments, 256, 1, 35840) { exactByKey<2>(a); }
