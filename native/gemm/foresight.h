// Which memory is packed next, and the asking for it little by little while tiles are computed: weights come from main
// memory, and packing waits for each line that is not there. Within a product what follows is known; from one product
// to the next it is learned, as training and generation use the same weights in the same order again and again.
#pragma once
#include <array>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../isa.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {

/** Rows of bytes that lie `stride` apart. Only ever asked for, never read: it may be gone. */
struct Region {
  const char* from = nullptr;
  int64_t stride = 0, run = 0, rows = 0;

  static constexpr int64_t kLine = 64;
  int64_t lines() const { return rows * ((run + kLine - 1) / kLine); }

  /** Rows of part [begin, end) of `whole`. */
  Region part(int64_t begin, int64_t end, int64_t whole) const {
    const int64_t first = rows * begin / whole;
    return {from + first * stride, stride, run, rows * end / whole - first};
  }
};

/** Regions asked for one after the other, some lines at a time. */
class Ahead {
 public:
  using Regions = std::array<Region, 3>;

  Ahead() = default;
  /** ask() is called `times` times; the last eighth of them asks, as lines that come earlier are gone when needed. */
  Ahead(const Regions& regions, int64_t times) : regions_(regions) {
    int64_t lines = 0;
    for (const Region& region : regions) lines += region.lines();
    const int64_t asking = (times + 7) / 8;
    waiting_ = times - asking;
    each_ = (lines + asking - 1) / asking;
    skipEmpty();
  }

  void ask() {
    if (waiting_-- > 0) return;
    for (int64_t i = 0; i < each_ && now_ < regions_.size(); i++) {
      Region& region = regions_[now_];
      __builtin_prefetch(region.from + at_, 0, 2);
      at_ += Region::kLine;
      if (at_ < region.run) continue;
      at_ = 0;
      region.from += region.stride;
      region.rows--;
      skipEmpty();
    }
  }

 private:
  void skipEmpty() {
    while (now_ < regions_.size() && regions_[now_].rows == 0) now_++;
  }

  Regions regions_;
  size_t now_ = 0;
  int64_t at_ = 0, each_ = 0, waiting_ = 0;
};

/** What each thread packed first in the product that followed another one, by a number that tells products apart. */
class Foresight {
 public:
  /** Product `key` begins, with these regions first; returns those of the product that came after it the last time. */
  static std::vector<Region> begin(uint64_t key, std::vector<Region> firsts) {
    static auto* const all = new Foresight();
    const std::lock_guard<std::mutex> lock(all->mutex_);
    constexpr size_t kMost = 16384;
    if (all->followers_.size() > kMost) all->followers_.clear();
    all->followers_[all->last_] = std::move(firsts);
    all->last_ = key;
    const auto found = all->followers_.find(key);
    return found == all->followers_.end() ? std::vector<Region>() : found->second;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<uint64_t, std::vector<Region>> followers_;
  uint64_t last_ = 0;
};

}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
