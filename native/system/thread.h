// Threads that nobody waits for, with a stack of one size everywhere: the C++ library's have the system's own, which is
// 8 MB with glibc, 512 KB on macOS and 128 KB with musl. Not here: what they do (threads.cc, mpi/thread.cc).
#pragma once
#include <cstddef>
#include <functional>

namespace lowrank {

constexpr size_t kStackBytes = size_t{8} << 20;

/** False when the system allows no more threads. */
bool startThread(std::function<void()> body);

}  // namespace lowrank
