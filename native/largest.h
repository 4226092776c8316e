// Where the largest of a row of numbers lies: the token that a greedy answer goes on with.
#pragma once
#include <cstdint>
#include <cstring>

namespace lowrank {

/** The first of equals; 0 where the first is no number, and others that are none are passed over. */
inline int32_t indexOfLargest(const float* row, int64_t n) {
  typedef float Four __attribute__((vector_size(16)));
  constexpr int kVectors = 4, kStep = 4 * kVectors;
  if (row[0] != row[0]) return 0;
  float best = row[0];
  Four most[kVectors];
  for (Four& v : most) v = Four{best, best, best, best};
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    for (int v = 0; v < kVectors; v++) {
      Four here;
      std::memcpy(&here, row + i + 4 * v, sizeof here);
      most[v] = here > most[v] ? here : most[v];
    }
  }
  for (const Four& v : most) {
    for (int lane = 0; lane < 4; lane++) best = v[lane] > best ? v[lane] : best;
  }
  for (; i < n; i++) best = row[i] > best ? row[i] : best;
  for (i = 0; row[i] != best; i++) {
  }
  return static_cast<int32_t>(i);
}

}  // namespace lowrank
