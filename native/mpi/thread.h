// The one thread of a process that talks to MPI. Jobs wait in a queue and run in order, beside the kernels; every wait
// has a deadline, and a job that meets it names the ranks that were silent. All ranks must post the same jobs in the
// same order. Not here: JavaScript's side (addon.cc), the library (abi.h).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace lowrank::mpi {

struct Started {
  int rank, size;
};

/** Starts the thread and MPI_Init_thread on it; waits for that. Later calls tell what the first did. Throws std::string. */
Started start(const char* path, std::string& abi, std::string& version);

/** Whether this process is in MPI. */
bool isUp();

enum class Kind : int { Gather, Broadcast, SumInOrder, Share, Finalize };

/** What a job is about; the memory must stay until it is done. */
struct Job {
  Kind kind;
  /** Gather: the own bytes. Broadcast: rank 0's, and everybody's afterwards. SumInOrder: the gradient. Share: all slices. */
  void* own;
  /** Gather: all ranks' bytes, in their order. SumInOrder: the own slice of the sum. */
  void* all;
  /** Bytes of `own` (Gather, Broadcast), or f32 elements of the flat buffer. */
  int64_t count;
  /** SumInOrder: ranks 0..ranks-1 have a gradient. */
  int ranks;
  /** SumInOrder: the sum begins with this call. */
  bool first;
  /** Seconds without any message from a rank that is waited for. */
  double deadlineSeconds;
};

int64_t post(const Job& job);

enum class State { Waiting, Done, Late, Failed };

/** Waits up to so many milliseconds. Late: `silent` are the ranks that did not answer; Failed: `problem` says why. */
State wait(int64_t id, double milliseconds, std::vector<int>& silent, std::string& problem);

/** Ends all ranks with this exit code; returns after at most two seconds, for the caller to leave by itself. */
void abortAll(int code);

/** Elements [begin, end) of a flat buffer of `count` that are rank's: multiples of kSliceUnit but for the last. */
constexpr int64_t kSliceUnit = 32768;
void sliceOf(int64_t count, int rank, int size, int64_t& begin, int64_t& end);

/** Bytes of everything, and the seconds of SumInOrder, waiting for other ranks included. */
struct Traffic {
  double bytesSent, bytesReceived, busySeconds;
};
Traffic traffic();

}  // namespace lowrank::mpi
