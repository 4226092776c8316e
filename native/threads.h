// The persistent thread pool that every native kernel runs on. One job at a time, called from one thread (the
// worker that owns the backend). Threads spin briefly, then sleep.
#pragma once
#include <cstdint>
#include <functional>

namespace lowrank {

/** Threads that parallel calls use, the calling one included. Set once when the backend opens. */
int threadCount();
void setThreadCount(int count);

/** Runs body(task, thread) for every task in [0, tasks), tasks handed out dynamically; thread in [0, threadCount()). */
void parallelTasks(int64_t tasks, const std::function<void(int64_t task, int thread)>& body);

/** Splits [0, n) into at most threadCount() contiguous ranges of at least `grain` elements: body(begin, end, thread). */
void parallelRange(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end, int thread)>& body);

}  // namespace lowrank
