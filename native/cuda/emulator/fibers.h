// Runs a kernel's own source on the CPU, block by block: a fiber a thread, switched at barriers and at collectives of a warp. Shared
// memory begins as NaNs and is fenced by guard words. What a card would hang or race on (a barrier that not all threads
// reach, a collective that not all lanes reach or that they reach as different ones) ends the launch with the kernel's name.
// Not here: the primitives kernels call (device.h), the driver API (driver.cc).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulator {

struct Index {
  unsigned x = 1, y = 1, z = 1;
};

/** A copy to shared memory that is under way: it lands when it is waited for, not before. */
struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
  unsigned bytes, group;
};

constexpr int kMostWords = 8;

struct Fiber {
  void* stackPointer = nullptr;
  Index thread;
  enum State : int { Runs, AtBarrier, AtCollective, Done } state = Runs;
  const char* collective = nullptr;  // what it waits at
  unsigned turn = 0;                 // alternates, so that words of one collective outlive the next one's
  unsigned words[2][kMostWords];     // what the lane brought
  std::vector<PendingCopy> copies;
  unsigned group = 0;
};

extern Fiber* self;
extern Index blockIndex, blockSize, gridSize;

void barrier();
/** Gives `count` words and waits for the whole warp; the fibers of its lanes, whose words[returned turn] may then be read. */
struct Exchange {
  const Fiber* lanes;
  unsigned turn;
  unsigned word(int lane, int i = 0) const { return lanes[lane].words[turn][i]; }
};
Exchange exchange(const char* collective, const unsigned* words, int count);
/** Static shared memory, one place for each key. */
void* sharedVariable(const void* key, size_t bytes);
void* dynamicShared();
/** Ends the launch with an error. */
[[noreturn]] void fail(const char* text);

/** A kernel: its name, what its arguments take, and how it is called. Made by KERNEL at load time. */
struct Registration {
  const char* name;
  size_t argumentBytes;
  unsigned threads, sharedBytes;
  void (*run)(const void* arguments);
  Registration* next;
  Registration(const char* n, size_t a, unsigned t, unsigned s, void (*r)(const void*));
};
const Registration* findKernel(const char* name);

/** Runs the launch; false, and a line on stderr, where the kernel did what a card would not forgive. */
bool run(const Registration& kernel, Index grid, unsigned threads, unsigned sharedBytes, const void* arguments);

/** What emulatorBlock (guard.cu) does; in driver.cc, which has the memory. */
void markBlock(unsigned long long address, unsigned long long sizeBytes, unsigned long long capacity, bool live);

}  // namespace emulator
