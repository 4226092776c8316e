// One opened card: its context and stream, the memory that was mapped, the modules and functions that were loaded, and what is
// copied to and fro. All of it is called by the thread that opened it. Not here: launches (commands.h), what
// JavaScript sees (face.cc), who owns which block of memory (src/backend/cuda/memory.ts).
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "driver.h"

namespace lowrank::cuda {

/** What went wrong: the driver's code and a sentence; no code: a mistake of lowrank's own. */
struct Failure {
  Result code;
  std::string text;
};
[[noreturn]] void raise(const Driver& driver, Result code, const std::string& what);

struct Function {
  Handle handle;
  std::string name;
  unsigned threads, sharedBytes;
};

/** Host memory that the card copies from and to without the processor. */
class PinnedMemory {
 public:
  PinnedMemory(const Driver& driver, size_t bytes);
  ~PinnedMemory() { driver_.freeHost(memory_); }
  PinnedMemory(const PinnedMemory&) = delete;
  char* data() const { return static_cast<char*>(memory_); }

 private:
  const Driver& driver_;
  void* memory_ = nullptr;
};

/** A read under way: bytes that are in `from` once the event has come. */
struct PendingRead {
  std::unique_ptr<PinnedMemory> from;
  size_t bytes;
  Handle event;
};

class Replays;

class Card {
 public:
  Card(const Driver& driver, Device device);
  ~Card();
  Card(const Card&) = delete;

  const Driver& driver;
  const Device device;
  Handle stream = nullptr;
  size_t granularity = 0;

  /** Makes this card the calling thread's. */
  void use() const;
  void check(Result result, const char* what) const {
    if (result) raise(driver, result, what);
  }
  /** Addresses without memory behind them. */
  Address reserve(size_t bytes);
  /** Puts memory behind the next `bytes`, a multiple of the granularity, of a reserved range; false where the card has none left. */
  bool grow(Address range, size_t bytes);

  /** PTX text that ends in a zero byte; what the driver's compiler says of it in the failure. */
  size_t loadModule(const char* text);
  size_t findFunction(size_t module, const char* name, unsigned threads, unsigned sharedBytes);
  const std::vector<Function>& functions() const { return functions_; }

  /** In the order of the launches; the data may be changed when it returns. */
  void write(Address to, const void* data, size_t bytes);
  /** Enqueues a small read; finish it by finishRead() once its event has come. */
  PendingRead beginRead(Address from, size_t bytes);
  void finishRead(PendingRead& read, void* into);
  void readNow(Address from, void* into, size_t bytes);
  void wait() const { check(driver.waitForStream(stream), "waiting for the card"); }
  Replays& replays() { return *replays_; }

 private:
  struct Range {
    size_t reserved, mapped = 0;
    std::vector<std::pair<MemoryHandle, size_t>> parts;
  };
  struct Upload {
    Handle event;
  };
  Handle event();
  size_t stagingRoom(size_t bytes);

  Handle context_ = nullptr;
  std::map<Address, Range> ranges_;
  std::vector<Handle> modules_;
  std::vector<Function> functions_;
  std::unique_ptr<PinnedMemory> staging_;
  size_t stagingHead_ = 0;
  std::vector<Upload> uploads_;
  std::vector<Handle> spareEvents_;
  std::vector<std::unique_ptr<PinnedMemory>> spareReads_;
  std::unique_ptr<Replays> replays_;
};

/** Reads of more bytes than this wait at once. */
constexpr size_t kSmallRead = 1 << 20;

}  // namespace lowrank::cuda
