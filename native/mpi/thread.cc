// See thread.h. Messages go from rank to rank without MPI's own collectives: their sums depend on library, size and
// number of ranks, and of a collective that hangs nobody can tell who is missing.
#include "mpi/thread.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "mpi/abi.h"
#include "system/thread.h"

namespace lowrank::mpi {
namespace {

/** Bytes of a message at most, and of the slices in flight at a time. */
constexpr int64_t kPieceBytes = int64_t{8} << 20;
constexpr int kTag = 1771;
/** Polls that only yield, before waits begin to sleep. */
constexpr int kEagerPolls = 2000;
constexpr auto kSleep = std::chrono::microseconds(50);

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Result {
  State state = State::Waiting;
  std::vector<int> silent;
  std::string problem;
};

struct Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::pair<int64_t, Job>> queue;
  std::map<int64_t, Result> results;
  int64_t nextId = 1;
  bool up = false, aborted = false, finalized = false;
  std::string problem;  // of starting
  Library library;
  int rank = 0, size = 1;
  std::atomic<int> abortCode{-1};
  std::atomic<double> sent{0}, received{0}, busy{0};
};

/** Never destroyed: the thread outlives static objects. */
Shared& shared() {
  static Shared& all = *new Shared();
  return all;
}

struct Late {
  std::vector<int> silent;
};

[[noreturn]] void fail(const char* what, int code) {
  char text[8192] = "";
  int length = 0;
  shared().library.call.Error_string(code, text, &length);
  throw std::string(what) + ": " + text;
}

void abortNow(int code) {
  Shared& s = shared();
  s.library.call.Abort(s.library.world, code);
  std::lock_guard<std::mutex> lock(s.mutex);
  s.aborted = true;
  s.changed.notify_all();
}

/** Messages under way together. Receives are what a deadline is about: a send ends when its receiver is there. */
class Exchange {
 public:
  explicit Exchange(double deadlineSeconds) : deadline_(deadlineSeconds) {}

  void send(const void* from, int64_t bytes, int to) {
    Shared& s = shared();
    for (int64_t at = 0; at < bytes; at += kPieceBytes) {
      const int count = static_cast<int>(std::min(kPieceBytes, bytes - at));
      messages_.push_back({0, to});
      const int code = s.library.call.Isend(static_cast<const char*>(from) + at, count, s.library.byte, to, kTag,
                                            s.library.world, &messages_.back().request);
      if (code) fail("MPI_Isend", code);
      s.sent.store(s.sent.load() + count);
    }
  }

  void receive(void* into, int64_t bytes, int from) {
    Shared& s = shared();
    for (int64_t at = 0; at < bytes; at += kPieceBytes) {
      const int count = static_cast<int>(std::min(kPieceBytes, bytes - at));
      messages_.push_back({0, from});
      const int code = s.library.call.Irecv(static_cast<char*>(into) + at, count, s.library.byte, from, kTag,
                                            s.library.world, &messages_.back().request);
      if (code) fail("MPI_Irecv", code);
      s.received.store(s.received.load() + count);
    }
  }

  /** Until all have arrived. Throws Late after so long without progress. */
  void finish() {
    Shared& s = shared();
    double progress = now();
    for (int polls = 0; !messages_.empty(); polls++) {
      const size_t before = messages_.size();
      for (size_t i = 0; i < messages_.size();) {
        int done = 0;
        const int code = s.library.call.Test(&messages_[i].request, &done, s.library.statusIgnore);
        if (code) fail("MPI_Test", code);
        if (done) {
          messages_[i] = messages_.back();
          messages_.pop_back();
        } else {
          i++;
        }
      }
      const int code = s.abortCode.load();
      if (code >= 0) abortNow(code);
      if (messages_.size() < before) {
        progress = now();
        polls = 0;
        continue;
      }
      if (polls < kEagerPolls) {
        std::this_thread::yield();
        continue;
      }
      if (now() - progress > deadline_) throw late();
      std::this_thread::sleep_for(kSleep);
    }
  }

 private:
  struct Message {
    Request request;
    int peer;
  };

  Late late() const {
    Late result;
    for (const Message& message : messages_) result.silent.push_back(message.peer);
    std::sort(result.silent.begin(), result.silent.end());
    result.silent.erase(std::unique(result.silent.begin(), result.silent.end()), result.silent.end());
    return result;
  }

  // Requests must not move while a message is under way in MPI's eyes: only their values count, which may be copied.
  std::deque<Message> messages_;
  double deadline_;
};

void gather(const Job& job) {
  const Shared& s = shared();
  char* all = static_cast<char*>(job.all);
  Exchange exchange(job.deadlineSeconds);
  for (int rank = 0; rank < s.size; rank++) {
    if (rank != s.rank) exchange.receive(all + rank * job.count, job.count, rank);
  }
  for (int i = 1; i < s.size; i++) exchange.send(job.own, job.count, (s.rank + i) % s.size);
  std::memcpy(all + s.rank * job.count, job.own, static_cast<size_t>(job.count));
  exchange.finish();
}

/** From rank 0 down a binomial tree. */
void broadcast(const Job& job) {
  const Shared& s = shared();
  int bit = 1;
  while (bit < s.size && !(s.rank & bit)) bit <<= 1;
  if (s.rank != 0) {
    Exchange exchange(job.deadlineSeconds);
    exchange.receive(job.own, job.count, s.rank - bit);
    exchange.finish();
  }
  Exchange exchange(job.deadlineSeconds);
  for (int step = bit >> 1; step > 0; step >>= 1) {
    if (s.rank + step < s.size) exchange.send(job.own, job.count, s.rank + step);
  }
  exchange.finish();
}

/** Own slice of the sum: = or += the slices of ranks 0..ranks-1, in this order, piece by piece. */
void sumInOrder(const Job& job, std::vector<float>& scratch) {
  const Shared& s = shared();
  const float* gradient = static_cast<const float*>(job.own);
  float* sum = static_cast<float*>(job.all);
  std::vector<int64_t> begins(static_cast<size_t>(s.size)), ends(static_cast<size_t>(s.size));
  int64_t longest = 0;
  for (int rank = 0; rank < s.size; rank++) {
    sliceOf(job.count, rank, s.size, begins[rank], ends[rank]);
    longest = std::max(longest, ends[rank] - begins[rank]);
  }
  const int64_t piece = std::max<int64_t>(kSliceUnit, kPieceBytes / 4 / s.size / kSliceUnit * kSliceUnit);
  const int64_t begin = begins[s.rank], own = ends[s.rank] - begin;
  scratch.resize(static_cast<size_t>(std::min(piece, longest) * job.ranks));
  for (int64_t at = 0; at < longest; at += piece) {
    Exchange exchange(job.deadlineSeconds);
    const int64_t mine = std::clamp<int64_t>(own - at, 0, piece);
    for (int rank = 0; rank < job.ranks; rank++) {
      if (rank != s.rank) exchange.receive(scratch.data() + rank * mine, 4 * mine, rank);
    }
    if (s.rank < job.ranks) {
      for (int i = 1; i < s.size; i++) {
        const int to = (s.rank + i) % s.size;
        const int64_t theirs = std::clamp<int64_t>(ends[to] - begins[to] - at, 0, piece);
        exchange.send(gradient + begins[to] + at, 4 * theirs, to);
      }
    }
    exchange.finish();
    float* into = sum + at;
    for (int rank = 0; rank < job.ranks; rank++) {
      const float* from = rank == s.rank ? gradient + begin + at : scratch.data() + rank * mine;
      if (rank == 0 && job.first) {
        std::memcpy(into, from, static_cast<size_t>(4 * mine));
        continue;
      }
      for (int64_t i = 0; i < mine; i++) into[i] += from[i];
    }
  }
}

void share(const Job& job) {
  const Shared& s = shared();
  float* flat = static_cast<float*>(job.own);
  int64_t begin, end;
  sliceOf(job.count, s.rank, s.size, begin, end);
  Exchange exchange(job.deadlineSeconds);
  for (int rank = 0; rank < s.size; rank++) {
    if (rank == s.rank) continue;
    int64_t theirs, theirEnd;
    sliceOf(job.count, rank, s.size, theirs, theirEnd);
    exchange.receive(flat + theirs, 4 * (theirEnd - theirs), rank);
  }
  for (int i = 1; i < s.size; i++) exchange.send(flat + begin, 4 * (end - begin), (s.rank + i) % s.size);
  exchange.finish();
}

void run(const Job& job, std::vector<float>& scratch) {
  switch (job.kind) {
    case Kind::Gather:
      return gather(job);
    case Kind::Broadcast:
      return broadcast(job);
    case Kind::SumInOrder:
      return sumInOrder(job, scratch);
    case Kind::Share:
      return share(job);
    case Kind::Finalize: {
      const int code = shared().library.call.Finalize();
      if (code) fail("MPI_Finalize", code);
      return;
    }
  }
}

void initialize(const char* path) {
  Shared& s = shared();
  s.library = openLibrary(path);
  const Functions& call = s.library.call;
  int provided = 0;
  const int code = call.Init_thread(nullptr, nullptr, s.library.funneled, &provided);
  if (code) fail("MPI_Init_thread", code);
  call.Comm_set_errhandler(s.library.world, s.library.errorsReturn);
  call.Comm_rank(s.library.world, &s.rank);
  call.Comm_size(s.library.world, &s.size);
}

void serve() {
  Shared& s = shared();
  std::vector<float> scratch;
  std::unique_lock<std::mutex> lock(s.mutex);
  for (;;) {
    s.changed.wait_for(lock, std::chrono::milliseconds(200),
                       [&] { return !s.queue.empty() || s.abortCode.load() >= 0; });
    if (const int code = s.abortCode.load(); code >= 0 && !s.aborted && !s.finalized) {
      lock.unlock();
      abortNow(code);
      lock.lock();
    }
    if (s.queue.empty()) continue;
    const auto [id, job] = s.queue.front();
    s.queue.pop_front();
    lock.unlock();
    Result result;
    const double began = now();
    try {
      run(job, scratch);
      result.state = State::Done;
    } catch (const Late& late) {
      result.state = State::Late;
      result.silent = late.silent;
    } catch (const std::string& problem) {
      result.state = State::Failed;
      result.problem = problem;
    }
    if (job.kind == Kind::SumInOrder) s.busy.store(s.busy.load() + now() - began);
    lock.lock();
    s.results[id] = result;
    if (job.kind == Kind::Finalize) s.finalized = true;
    s.changed.notify_all();
    if (s.finalized) return;
  }
}

}  // namespace

Started start(const char* path, std::string& abi, std::string& version) {
  Shared& s = shared();
  std::unique_lock<std::mutex> lock(s.mutex);
  if (s.up) {
    if (s.finalized) throw std::string("MPI was left already, and a process joins it once");
    abi = s.library.abi;
    version = s.library.version;
    return {s.rank, s.size};
  }
  bool ended = false;
  const bool started = startThread([&ended, name = std::string(path)] {
    Shared& all = shared();
    bool up = false;
    std::string problem;
    try {
      initialize(name.c_str());
      up = true;
    } catch (const std::string& reason) {
      problem = reason;
    }
    {
      std::lock_guard<std::mutex> guard(all.mutex);
      all.up = up;
      all.problem = problem;
      ended = true;
      all.changed.notify_all();
    }
    if (up) serve();
  });
  if (!started) throw std::string("the system allows no more threads");
  s.changed.wait(lock, [&] { return ended; });
  if (!s.up) throw s.problem;
  abi = s.library.abi;
  version = s.library.version;
  return {s.rank, s.size};
}

bool isUp() {
  Shared& s = shared();
  std::lock_guard<std::mutex> lock(s.mutex);
  return s.up && !s.finalized;
}

int64_t post(const Job& job) {
  Shared& s = shared();
  std::lock_guard<std::mutex> lock(s.mutex);
  const int64_t id = s.nextId++;
  s.results[id] = {};
  s.queue.emplace_back(id, job);
  s.changed.notify_all();
  return id;
}

State wait(int64_t id, double milliseconds, std::vector<int>& silent, std::string& problem) {
  Shared& s = shared();
  std::unique_lock<std::mutex> lock(s.mutex);
  const auto found = s.results.find(id);
  if (found == s.results.end()) {
    problem = "no such job";
    return State::Failed;
  }
  s.changed.wait_for(lock, std::chrono::duration<double, std::milli>(milliseconds),
                     [&] { return found->second.state != State::Waiting; });
  const State state = found->second.state;
  if (state == State::Waiting) return state;
  silent = found->second.silent;
  problem = found->second.problem;
  s.results.erase(found);
  return state;
}

void abortAll(int code) {
  Shared& s = shared();
  std::unique_lock<std::mutex> lock(s.mutex);
  if (!s.up || s.finalized) return;
  s.abortCode.store(code < 0 ? 1 : code);
  s.changed.notify_all();
  s.changed.wait_for(lock, std::chrono::seconds(2), [&] { return s.aborted; });
}

void sliceOf(int64_t count, int rank, int size, int64_t& begin, int64_t& end) {
  const int64_t units = (count + kSliceUnit - 1) / kSliceUnit;
  begin = std::min(count, units * rank / size * kSliceUnit);
  end = std::min(count, units * (rank + 1) / size * kSliceUnit);
}

Traffic traffic() {
  Shared& s = shared();
  return {s.sent.load(), s.received.load(), s.busy.load()};
}

}  // namespace lowrank::mpi
