// MPI's three binary interfaces, so that a library is opened at run time without its headers: Open MPI's, whose handles
// are addresses of symbols; MPICH's, whose handles are 32-bit numbers (also Intel MPI, MVAPICH and Cray MPICH); and the
// standard one of MPI 5.0. Handles of all three fit a register. Not here: their use (thread.cc).
#pragma once
#include <cstdint>
#include <string>

namespace lowrank::mpi {

/** A handle of any of the three. */
using Handle = uintptr_t;
/** A request: the widest handle. MPICH writes half of it, so it begins as zero. */
using Request = uint64_t;

/** The functions that are used, by their names without MPI_. */
struct Functions {
  int (*Init_thread)(int* argc, char*** argv, int required, int* provided);
  int (*Initialized)(int* flag);
  int (*Finalize)();
  int (*Abort)(Handle comm, int code);
  int (*Comm_rank)(Handle comm, int* rank);
  int (*Comm_size)(Handle comm, int* size);
  int (*Comm_set_errhandler)(Handle comm, Handle handler);
  int (*Error_string)(int code, char* text, int* length);
  int (*Get_library_version)(char* text, int* length);
  int (*Isend)(const void* buffer, int count, Handle type, int to, int tag, Handle comm, Request* request);
  int (*Irecv)(void* buffer, int count, Handle type, int from, int tag, Handle comm, Request* request);
  int (*Test)(Request* request, int* done, void* status);
};

struct Library {
  Functions call{};
  const char* abi = "";  // "openmpi", "mpich" or "standard"
  std::string version;   // the first line of what it says of itself
  Handle world = 0, byte = 0, errorsReturn = 0;
  void* statusIgnore = nullptr;
  int funneled = 1;  // MPI_THREAD_FUNNELED
};

/** Opens the library at `path` (a name is searched for as the system does). Throws std::string with the reason. */
Library openLibrary(const char* path);

}  // namespace lowrank::mpi
