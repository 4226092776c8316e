// Attention, forward: kernels for heads of up to 64, 128, 256 and 512 on tensor cores (attention-matrix.h) and for any head
// in f32 (attention-exact.h). Queries are [tq, heads, width], keys and values [tk, kvHeads, width], f32. A block takes a
// tile of 64 queries (32 for width 512) of one head of one segment: blockIdx.x = segment * tiles + tile, blockIdx.y =
// head, in f32 head + heads * (128 columns). Tensor cores' kernels need widths that are multiples of 4 and tensors at multiples of 16 bytes.
// Not here: few queries (attention-decode.cu), the backward pass (attention-backward.cu).
#include "attention-exact.h"
#include "attention-matrix.h"

struct AttentionArguments {
  const float* q;
  const float* k;
  const float* v;
  const i32* table;    // [segments, 4]: qStart, qLength, kStart, kLength
  const i32* blocks;   // lists of blocks of keys, or absent
  const float* sinks;  // [heads] or absent
  float* out;
  float* lse;  // [tq, heads]
  u32 heads, kvHeads, width, window;
  u32 tiles;        // of the longest segment
  u32 blockTokens;  // a multiple of 64
  float scale, softcap;
};

KERNEL(attention64, AttentionArguments, 128, 4, 25600) { attentionTile<64, 64, 4, 1>(a); }
KERNEL(attention128, AttentionArguments, 128, 3, 50176) { attentionTile<128, 64, 4, 1>(a); }
KERNEL(attention256, AttentionArguments, 128, 1, 66048) { attentionTile<256, 32, 4, 1>(a); }
KERNEL(attention512, AttentionArguments, 128, 1, 65792) { attentionTile<512, 16, 2, 2>(a); }
KERNEL(attentionExact, AttentionArguments, 256, 1, 35840) { exactTile<2>(a); }
