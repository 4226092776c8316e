// Launches as JavaScript writes them, and their replay: a run of launches that comes again (a training step does, launch for launch)
// is made a graph of the driver's the second time, and from then on only the arguments that changed are told before the
// whole graph is launched at once. Not here: which launches there are (src/backend/cuda/).
//
// A launch in the buffer, in 32-bit words: count of its words (even), function, grid x, y, z, 0, arguments ...
#pragma once
#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

#include "driver.h"

namespace lowrank::cuda {

class Card;

class Replays {
 public:
  explicit Replays(Card& card) : card_(card) {}
  ~Replays();
  Replays(const Replays&) = delete;

  /**
   * Enqueues the launches in words[0, count). `place` tells runs of the same kernels apart that come one after the other in a
   * step: layers are alike, their arguments are not.
   */
  void submit(const uint32_t* words, size_t count, uint64_t place);

  /** Launches so far: one by one, and as part of a graph; and arguments that were told anew in these. */
  uint64_t launched = 0, replayed = 0, changed = 0, graphs = 0;

 private:
  struct Launch {
    size_t begin;  // of its record in `words`
    Handle node;
  };
  /** A run of launches as a graph, with the arguments that it was last told. */
  struct Recording {
    std::vector<uint32_t> words;
    std::vector<Launch> launches;
    Handle graph = nullptr, executable = nullptr;
    std::list<uint64_t>::iterator age;
  };

  void launchEach(const uint32_t* words, const std::vector<Launch>& launches);
  void record(uint64_t key, const uint32_t* words, size_t count, const std::vector<Launch>& launches);
  bool replay(Recording& recording, const uint32_t* words, size_t count);
  void forget(uint64_t key);

  Card& card_;
  std::unordered_map<uint64_t, Recording> recordings_;
  std::unordered_map<uint64_t, unsigned> seen_;
  std::list<uint64_t> ages_;  // keys of recordings, the last used first
  std::vector<Launch> launches_;
};

}  // namespace lowrank::cuda
