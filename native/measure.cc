// Times register-only loops and plain reads on every thread at once.
#include "measure.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "memory.h"
#include "threads.h"

namespace lowrank {

double peakGflops(const Isa& isa, Precision precision) {
  const int threads = threadCount();
  std::vector<double> rates(static_cast<size_t>(threads));
  std::atomic<int> arrived{0};
  parallelTasks(threads, [&](int64_t task, int) {
    // All threads measure at the same time, as clocks fall when every core multiplies.
    arrived++;
    while (arrived < threads) {
    }
    rates[static_cast<size_t>(task)] = isa.linear->peak(precision, 0.2);
  });
  double total = 0;
  for (const double rate : rates) total += rate;
  return total;
}

double streamBandwidth() {
  constexpr size_t kBytes = size_t{512} << 20;
  auto* data = static_cast<uint64_t*>(allocateBytes(kBytes));
  if (!data) return 0;
  constexpr int64_t kWords = kBytes / 8;
  parallelRange(kWords, 512, [&](int64_t begin, int64_t end, int) {
    std::memset(data + begin, 1, static_cast<size_t>(end - begin) * 8);
  });
  std::atomic<uint64_t> sink{0};
  double best = 0;
  for (int pass = 0; pass < 3; pass++) {
    const auto start = std::chrono::steady_clock::now();
    parallelRange(kWords, 512, [&](int64_t begin, int64_t end, int) {
      uint64_t sums[8] = {};
      for (int64_t i = begin; i + 8 <= end; i += 8) {
        for (int lane = 0; lane < 8; lane++) sums[lane] += data[i + lane];
      }
      uint64_t sum = 0;
      for (const uint64_t lane : sums) sum += lane;
      sink += sum;
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (kBytes / seconds / 1e9 > best) best = kBytes / seconds / 1e9;
  }
  freeBytes(data, kBytes);
  return best;
}

}  // namespace lowrank
