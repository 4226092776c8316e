// The thread pool. Jobs of several JavaScript threads are taken one after the other; the thread that asks works
// along. Idle threads spin for a moment (a step is thousands of small jobs), then sleep.
//
// A job is published in one 64-bit ticket, generation << 32 | next task, so that a thread that wakes late can
// only take a task of the job it looked at, and no job ever waits for a thread that has taken none.
#include "threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

#include "system/thread.h"

namespace lowrank {
namespace {

using Body = std::function<void(int64_t, int)>;

constexpr uint32_t kClosed = 0xffffffffu;
constexpr int kMaxThreads = 256;
constexpr auto kSpin = std::chrono::microseconds(100);
constexpr int kSpinsBeforeYield = 2000;

thread_local int desiredThreads = 0;  // of the JavaScript thread; inside a job, of that job
thread_local bool insideJob = false;

int clampThreads(int count) {
  if (count <= 0) count = static_cast<int>(std::thread::hardware_concurrency());
  return count < 1 ? 1 : count > kMaxThreads ? kMaxThreads : count;
}

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  void run(uint32_t tasks, int threads, const Body& body) {
    std::lock_guard<std::mutex> oneJob(jobMutex_);
    grow(threads);
    const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(generation << 32 | kClosed);
    body_.store(&body, std::memory_order_relaxed);
    tasks_.store(tasks, std::memory_order_relaxed);
    threads_.store(threads, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(generation << 32);
    if (sleepers_.load() > 0) {
      { std::lock_guard<std::mutex> lock(sleepMutex_); }
      wake_.notify_all();
    }
    work(generation, 0);
    // The last task usually ends within microseconds; where its thread lost its core to others, let it have ours.
    for (int spins = 0; done_.load(std::memory_order_acquire) < tasks; spins++) {
      if (spins < kSpinsBeforeYield) relax();
      else std::this_thread::yield();
    }
    if (failed_.exchange(false)) throw std::bad_alloc();
  }

 private:
  void grow(int threads) {
    while (spawned_ < threads - 1 && !refused_) {
      const int index = spawned_ + 1;
      if (startThread([this, index] { serve(index); })) spawned_ = index;
      else refused_ = true;  // the system allows no more: those that are there take all tasks
    }
  }

  /** Takes tasks of job `generation` until none is left. */
  void work(uint64_t generation, int thread) {
    const bool outer = insideJob;
    insideJob = true;
    for (;;) {
      uint64_t ticket = ticket_.load(std::memory_order_acquire);
      if (ticket >> 32 != generation) break;
      const uint32_t task = static_cast<uint32_t>(ticket);
      const Body* body = body_.load(std::memory_order_relaxed);
      const int threads = threads_.load(std::memory_order_relaxed);
      if (task >= tasks_.load(std::memory_order_relaxed) || thread >= threads) break;
      // A ticket that is unchanged proves that body and threads belong to this generation.
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
      if (thread != 0) desiredThreads = threads;
      try {
        (*body)(task, thread);
      } catch (const std::bad_alloc&) {
        failed_ = true;  // raised again on the thread that asked for the job
      }
      done_.fetch_add(1, std::memory_order_release);
    }
    insideJob = outer;
  }

  void serve(int thread) {
    uint64_t seen = 0;
    for (;;) {
      uint64_t generation = waitForJob(seen);
      seen = generation;
      work(generation, thread);
    }
  }

  static bool isNew(uint64_t ticket, uint64_t seen) {
    return ticket >> 32 != seen && static_cast<uint32_t>(ticket) != kClosed;
  }

  uint64_t waitForJob(uint64_t seen) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 64; i++) {
        const uint64_t ticket = ticket_.load(std::memory_order_acquire);
        if (isNew(ticket, seen)) return ticket >> 32;
        relax();
      }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(sleepMutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return isNew(ticket_.load(), seen); });
    sleepers_.fetch_sub(1);
    return ticket_.load() >> 32;
  }

  std::mutex jobMutex_, sleepMutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> ticket_{kClosed};
  std::atomic<const Body*> body_{nullptr};
  std::atomic<uint32_t> tasks_{0}, done_{0};
  std::atomic<int> threads_{1}, sleepers_{0};
  std::atomic<bool> failed_{false};
  int spawned_ = 0;
  bool refused_ = false;
};

/** Never destroyed: its threads are detached and outlive any static. */
Pool& pool() {
  static Pool* const instance = new Pool();
  return *instance;
}

}  // namespace

int threadCount() {
  if (desiredThreads == 0) desiredThreads = clampThreads(0);
  return desiredThreads;
}

void setThreadCount(int count) { desiredThreads = clampThreads(count); }

void parallelTasks(int64_t tasks, const Body& body) {
  if (tasks <= 0) return;
  const int threads = threadCount();
  if (tasks == 1 || threads == 1 || insideJob) {
    for (int64_t i = 0; i < tasks; i++) body(i, 0);
    return;
  }
  constexpr int64_t kMost = 1 << 30;
  for (int64_t begin = 0; begin < tasks; begin += kMost) {
    const int64_t count = tasks - begin < kMost ? tasks - begin : kMost;
    if (begin == 0) {
      pool().run(static_cast<uint32_t>(count), threads, body);
    } else {
      pool().run(static_cast<uint32_t>(count), threads, [&](int64_t i, int thread) { body(begin + i, thread); });
    }
  }
}

void parallelRange(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t, int)>& body) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  int64_t parts = (n + grain - 1) / grain;
  if (parts > threadCount()) parts = threadCount();
  if (parts <= 1 || insideJob) return body(0, n, 0);
  // Equal parts, in whole grains so that vector loops keep their alignment.
  const int64_t grains = (n + grain - 1) / grain;
  parallelTasks(parts, [&](int64_t part, int thread) {
    const int64_t begin = grains * part / parts * grain;
    int64_t end = grains * (part + 1) / parts * grain;
    if (end > n) end = n;
    if (begin < end) body(begin, end, thread);
  });
}

}  // namespace lowrank
