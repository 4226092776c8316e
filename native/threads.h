// The persistent thread pool that every native kernel runs on. Any JavaScript thread may call it; jobs run one at
// a time, and a parallel call inside a job runs on the calling thread alone. Threads spin briefly, then sleep.
#pragma once
#include <cstdint>
#include <functional>

namespace lowrank {

/** Threads that parallel calls of this JavaScript thread use, the calling one included. Default: one per core. */
int threadCount();
/** Set when the backend opens; 0: one per core. Each JavaScript thread has its own count. */
void setThreadCount(int count);

/**
 * Runs body(task, thread) for every task in [0, tasks), tasks handed out dynamically; thread in [0, threadCount()).
 * A nested call sees thread 0: per-thread scratch belongs to the outermost job.
 */
void parallelTasks(int64_t tasks, const std::function<void(int64_t task, int thread)>& body);

/** Splits [0, n) into at most threadCount() contiguous ranges of whole `grain`s: body(begin, end, thread). */
void parallelRange(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end, int thread)>& body);

}  // namespace lowrank
