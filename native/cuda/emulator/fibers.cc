// Fibers and their scheduler (fibers.h). One block at a time, one warp after the other, each up to its next barrier.
#include "fibers.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace emulator {

Fiber* self = nullptr;
Index blockIndex, blockSize, gridSize;

namespace {

constexpr unsigned kMostThreads = 1024;
constexpr size_t kStackBytes = 256 << 10, kPageBytes = 4096;
constexpr size_t kMostSharedBytes = 512 << 10, kFenceBytes = 64;
constexpr unsigned char kFence = 0xa5;

struct Engine {
  std::unique_ptr<Fiber[]> fibers{new Fiber[kMostThreads]};
  char* stacks = nullptr;
  void* host = nullptr;  // the scheduler's own stack pointer
  const Registration* kernel = nullptr;
  const void* arguments = nullptr;
  std::unique_ptr<unsigned char[]> shared{new unsigned char[kMostSharedBytes]};
  size_t dynamicBytes = 0, usedBytes = 0;
  std::unordered_map<const void*, std::pair<size_t, size_t>> variables;  // offset and bytes
  std::string problem;
};
Engine engine;
Registration* registrations = nullptr;

// Saves the registers that a call must preserve on the stack, and goes on with another stack.
extern "C" void lowrankSwitchFiber(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.text
.globl lowrankSwitchFiber
.hidden lowrankSwitchFiber
.type lowrankSwitchFiber,@function
lowrankSwitchFiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lowrankSwitchFiber,.-lowrankSwitchFiber
)");
constexpr size_t kSavedWords = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.globl lowrankSwitchFiber
.hidden lowrankSwitchFiber
.type lowrankSwitchFiber,@function
lowrankSwitchFiber:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size lowrankSwitchFiber,.-lowrankSwitchFiber
)");
#else
#error "the emulator switches stacks on x86-64 and arm64 only"
#endif

void toScheduler() { lowrankSwitchFiber(&self->stackPointer, engine.host); }

void fiberMain() {
  engine.kernel->run(engine.arguments);
  self->state = Fiber::Done;
  toScheduler();
  std::abort();
}

void makeStacks() {
  if (engine.stacks) return;
  void* memory = mmap(nullptr, kMostThreads * kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "cuda emulator: no memory for stacks\n");
    std::abort();
  }
  engine.stacks = static_cast<char*>(memory);
  // A kernel that overruns its stack ends at once.
  for (unsigned i = 0; i < kMostThreads; i++) mprotect(engine.stacks + i * kStackBytes, kPageBytes, PROT_NONE);
}

void prepare(Fiber& fiber, unsigned i) {
  fiber.thread = {i, 0, 0};
  fiber.state = Fiber::Runs;
  fiber.turn = 0;
  fiber.group = 0;
  fiber.copies.clear();
  auto** top = reinterpret_cast<void**>(engine.stacks + (i + 1) * kStackBytes - 64);
#if defined(__x86_64__)
  *--top = nullptr;  // as after a call: the stack is 8 off a multiple of 16 when fiberMain begins
  *--top = reinterpret_cast<void*>(fiberMain);
  for (size_t r = 0; r < kSavedWords; r++) *--top = nullptr;
  fiber.stackPointer = top;
#else
  top -= 20;
  std::memset(top, 0, 160);
  top[11] = reinterpret_cast<void*>(fiberMain);  // x30
  fiber.stackPointer = top;
#endif
}

void resume(Fiber& fiber) {
  self = &fiber;
  fiber.state = Fiber::Runs;
  lowrankSwitchFiber(&engine.host, fiber.stackPointer);
}

const char* whereOf(const Fiber& fiber) {
  switch (fiber.state) {
    case Fiber::Done:
      return "ended";
    case Fiber::AtBarrier:
      return "waits at a barrier";
    case Fiber::AtCollective:
      return fiber.collective;
    default:
      return "runs";
  }
}

void disagree(const Fiber& a, const Fiber& b) {
  engine.problem = "thread " + std::to_string(a.thread.x) + ": " + whereOf(a) + ", thread " +
                   std::to_string(b.thread.x) + ": " + whereOf(b);
}

/** Runs a warp up to its next barrier or its end; false where its lanes disagree. */
bool runWarp(Fiber* lanes) {
  for (;;) {
    for (int l = 0; l < 32; l++) {
      if (lanes[l].state == Fiber::Runs || lanes[l].state == Fiber::AtCollective) resume(lanes[l]);
      if (!engine.problem.empty()) return false;
    }
    const Fiber& first = lanes[0];
    for (int l = 1; l < 32; l++) {
      const bool alike = lanes[l].state == first.state &&
                         (first.state != Fiber::AtCollective || lanes[l].collective == first.collective);
      // Lanes may end while others go on, but not where these meet.
      if (!alike) return disagree(first, lanes[l]), false;
    }
    if (first.state != Fiber::AtCollective) return true;
  }
}

bool runBlock(unsigned threads) {
  Fiber* fibers = engine.fibers.get();
  for (unsigned i = 0; i < threads; i++) prepare(fibers[i], i);
  for (bool backwards = false;; backwards = !backwards) {
    const unsigned warps = threads / 32;
    for (unsigned n = 0; n < warps; n++) {
      const unsigned w = backwards ? warps - 1 - n : n;
      if (!runWarp(fibers + 32 * w)) return false;
    }
    for (unsigned w = 1; w < warps; w++) {
      if (fibers[32 * w].state != fibers[0].state) return disagree(fibers[0], fibers[32 * w]), false;
    }
    if (fibers[0].state == Fiber::Done) break;
    for (unsigned i = 0; i < threads; i++) fibers[i].state = Fiber::Runs;
  }
  for (unsigned i = 0; i < threads; i++) {
    if (fibers[i].copies.empty()) continue;
    engine.problem = "thread " + std::to_string(i) + " ends before its copies were waited for";
    return false;
  }
  return true;
}

void fence(size_t at) { std::memset(engine.shared.get() + at, kFence, kFenceBytes); }
bool isFenced(size_t at) {
  for (size_t i = 0; i < kFenceBytes; i++) {
    if (engine.shared[at + i] != kFence) return false;
  }
  return true;
}

void prepareShared() {
  std::memset(engine.shared.get(), 0xff, engine.dynamicBytes);
  fence(engine.dynamicBytes);
  engine.usedBytes = engine.dynamicBytes + kFenceBytes;
  engine.variables.clear();
}

bool sharedIsSound() {
  bool sound = isFenced(engine.dynamicBytes);
  for (const auto& [key, place] : engine.variables) sound &= isFenced(place.first + place.second);
  if (!sound) engine.problem = "wrote beyond its shared memory";
  return sound;
}

}  // namespace

Registration::Registration(const char* n, size_t a, unsigned t, unsigned s, void (*r)(const void*))
    : name(n), argumentBytes(a), threads(t), sharedBytes(s), run(r), next(registrations) {
  registrations = this;
}

const Registration* findKernel(const char* name) {
  for (const Registration* r = registrations; r; r = r->next) {
    if (std::strcmp(r->name, name) == 0) return r;
  }
  return nullptr;
}

void barrier() {
  self->state = Fiber::AtBarrier;
  toScheduler();
}

Exchange exchange(const char* collective, const unsigned* words, int count) {
  Fiber& me = *self;
  me.turn ^= 1;
  std::memcpy(me.words[me.turn], words, sizeof(unsigned) * static_cast<size_t>(count));
  me.state = Fiber::AtCollective;
  me.collective = collective;
  toScheduler();
  return {engine.fibers.get() + me.thread.x / 32 * 32, me.turn};
}

void* sharedVariable(const void* key, size_t bytes) {
  const auto known = engine.variables.find(key);
  if (known != engine.variables.end()) return engine.shared.get() + known->second.first;
  const size_t at = (engine.usedBytes + 127) / 128 * 128;
  const size_t rounded = (bytes + 15) / 16 * 16;
  if (at + rounded + kFenceBytes > kMostSharedBytes) fail("takes more shared memory than there is");
  std::memset(engine.shared.get() + at, 0xff, rounded);
  fence(at + rounded);
  engine.usedBytes = at + rounded + kFenceBytes;
  engine.variables.emplace(key, std::make_pair(at, rounded));
  return engine.shared.get() + at;
}

void* dynamicShared() { return engine.shared.get(); }

void fail(const char* text) {
  engine.problem = "thread " + std::to_string(self->thread.x) + " " + text;
  self->state = Fiber::Done;
  toScheduler();
  std::abort();
}

bool run(const Registration& kernel, Index grid, unsigned threads, unsigned sharedBytes, const void* arguments) {
  makeStacks();
  engine.kernel = &kernel;
  engine.arguments = arguments;
  engine.problem.clear();
  engine.dynamicBytes = (sharedBytes + 15) / 16 * 16;
  gridSize = grid;
  blockSize = {threads, 1, 1};
  if (threads != kernel.threads || threads % 32 || threads > kMostThreads) engine.problem = "has another number of threads";
  if (sharedBytes != kernel.sharedBytes) engine.problem = "is launched with another amount of shared memory";
  for (unsigned z = 0; z < grid.z && engine.problem.empty(); z++) {
    for (unsigned y = 0; y < grid.y && engine.problem.empty(); y++) {
      for (unsigned x = 0; x < grid.x && engine.problem.empty(); x++) {
        blockIndex = {x, y, z};
        prepareShared();
        if (runBlock(threads)) sharedIsSound();
      }
    }
  }
  if (engine.problem.empty()) return true;
  std::fprintf(stderr, "cuda emulator: kernel %s, block (%u, %u, %u): %s\n", kernel.name, blockIndex.x, blockIndex.y,
               blockIndex.z, engine.problem.c_str());
  return false;
}

}  // namespace emulator
