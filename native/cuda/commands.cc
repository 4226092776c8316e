// Launches one by one or as a graph (commands.h).
#include "commands.h"

#include <cstdlib>
#include <cstring>

#include "card.h"

namespace lowrank::cuda {
namespace {

constexpr size_t kHeadWords = 6;
/** Shorter runs are launched one by one; so many recordings are kept, the last used ones. */
constexpr size_t kLeastRecorded = 8, kMostRecordings = 256, kMostSeen = 4096;

/** LOWRANK_CUDA_SYNC=1 waits after every launch, so that a kernel that fails is named. */
bool waitsEach() {
  static const bool waits = [] {
    const char* text = std::getenv("LOWRANK_CUDA_SYNC");
    return text && *text == '1';
  }();
  return waits;
}

KernelNode nodeOf(const Function& function, const uint32_t* record, void** arguments) {
  arguments[0] = const_cast<uint32_t*>(record + kHeadWords);
  return {function.handle, record[2], record[3], record[4], function.threads, 1, 1, function.sharedBytes, arguments, nullptr};
}

}  // namespace

Replays::~Replays() {
  while (!ages_.empty()) forget(ages_.back());
}

void Replays::submit(const uint32_t* words, size_t count, uint64_t place) {
  const auto& functions = card_.functions();
  launches_.clear();
  uint64_t key = 0xcbf29ce484222325u;  // FNV-1a over the functions
  for (size_t at = 0; at < count;) {
    const uint32_t length = words[at];
    if (length < kHeadWords || length % 2 || length > count - at || words[at + 1] >= functions.size())
      throw Failure{0, "a launch that is none"};
    launches_.push_back({at, nullptr});
    key = (key ^ words[at + 1]) * 0x100000001b3u;
    at += length;
  }
  const size_t n = launches_.size();
  if (n == 0) return;
  key = (((key ^ n) * 0x100000001b3u) ^ place) * 0x100000001b3u;
  if (n < kLeastRecorded || waitsEach()) return launchEach(words, launches_);
  const auto found = recordings_.find(key);
  if (found != recordings_.end()) {
    if (!replay(found->second, words, count)) launchEach(words, launches_);
    return;
  }
  if (seen_.size() >= kMostSeen) seen_.clear();
  if (seen_[key]++ == 0) return launchEach(words, launches_);
  record(key, words, count, launches_);
}

void Replays::launchEach(const uint32_t* words, const std::vector<Launch>& launches) {
  const Driver& driver = card_.driver;
  const auto& functions = card_.functions();
  for (const Launch& launch : launches) {
    void* arguments[1];
    const Function& function = functions[words[launch.begin + 1]];
    const KernelNode k = nodeOf(function, words + launch.begin, arguments);
    Result result = driver.launch(k.function, k.gridX, k.gridY, k.gridZ, k.blockX, 1, 1, k.sharedBytes, card_.stream,
                                  arguments, nullptr);
    if (!result && waitsEach()) result = driver.waitForStream(card_.stream);
    if (result) raise(driver, result, "kernel " + function.name);
  }
  launched += launches.size();
}

void Replays::record(uint64_t key, const uint32_t* words, size_t count, const std::vector<Launch>& launches) {
  const Driver& driver = card_.driver;
  const auto& functions = card_.functions();
  if (recordings_.size() >= kMostRecordings) forget(ages_.back());
  Recording& made = recordings_[key];
  ages_.push_front(key);
  made.age = ages_.begin();
  made.words.assign(words, words + count);
  made.launches = launches;
  try {
    card_.check(driver.createGraph(&made.graph, 0), "making a graph");
    Handle before = nullptr;
    for (Launch& launch : made.launches) {
      void* arguments[1];
      const Function& function = functions[words[launch.begin + 1]];
      const KernelNode k = nodeOf(function, words + launch.begin, arguments);
      const Result result = driver.addKernel(&launch.node, made.graph, &before, before ? 1 : 0, &k);
      if (result) raise(driver, result, "recording the kernel " + function.name);
      before = launch.node;
    }
    card_.check(driver.instantiate(&made.executable, made.graph, 0), "making a graph");
  } catch (...) {
    forget(key);
    throw;
  }
  graphs++;
  card_.check(driver.launchGraph(made.executable, card_.stream), "launching a recorded step");
  replayed += launches.size();
}

/** False where so much differs from the last time that launches are as quick. */
bool Replays::replay(Recording& r, const uint32_t* words, size_t count) {
  const Driver& driver = card_.driver;
  const auto& functions = card_.functions();
  if (r.words.size() != count) return false;
  std::vector<uint32_t> differing;
  for (size_t i = 0; i < r.launches.size(); i++) {
    const size_t at = r.launches[i].begin;
    const size_t length = r.words[at];
    // Another length or function is another run that has the same key.
    if (words[at] != length || words[at + 1] != r.words[at + 1]) return false;
    if (std::memcmp(words + at, r.words.data() + at, length * sizeof(uint32_t))) differing.push_back(static_cast<uint32_t>(i));
  }
  ages_.splice(ages_.begin(), ages_, r.age);
  if (2 * differing.size() > r.launches.size() + 16) return false;
  for (const uint32_t i : differing) {
    const Launch& launch = r.launches[i];
    const Function& function = functions[words[launch.begin + 1]];
    void* arguments[1];
    const KernelNode k = nodeOf(function, words + launch.begin, arguments);
    const Result result = driver.setKernel(r.executable, launch.node, &k);
    if (result) raise(driver, result, "changing the kernel " + function.name);
    std::memcpy(r.words.data() + launch.begin, words + launch.begin, words[launch.begin] * sizeof(uint32_t));
  }
  card_.check(driver.launchGraph(r.executable, card_.stream), "launching a recorded step");
  changed += differing.size();
  replayed += r.launches.size();
  return true;
}

void Replays::forget(uint64_t key) {
  const auto found = recordings_.find(key);
  if (found == recordings_.end()) return;
  Recording& r = found->second;
  if (r.executable) card_.driver.destroyExecutable(r.executable);
  if (r.graph) card_.driver.destroyGraph(r.graph);
  ages_.erase(r.age);
  recordings_.erase(found);
}

}  // namespace lowrank::cuda
