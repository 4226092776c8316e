// Opens an MPI library and finds out which binary interface it has. Constants: mpi.h of MPICH 4.0 and 5.0, the symbols
// of Open MPI 4.1 and 5.0, and the ABI chapter of the MPI 5.0 standard.
#include "mpi/abi.h"

#include <cstring>

#include "system/library.h"

namespace lowrank::mpi {
namespace {

/** Names by which libraries of MPICH's interface open what they say of themselves. */
constexpr const char* kMpichFamily[] = {"MPICH", "Intel(R) MPI", "MVAPICH", "CRAY MPICH", "Cray MPICH"};

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(findSymbol(library, name));
  if (!function) throw std::string("it has no function ") + name;
}

}  // namespace

Library openLibrary(const char* path) {
  // GLOBAL, because Open MPI's plug-ins look for its symbols; never unloaded, because its threads run on.
  void* handle = lowrank::openLibrary(path, Scope::Everybody);
  if (!handle) throw std::string(openProblem());
  Library library;
#define LOWRANK_FIND(name) find(handle, "MPI_" #name, library.call.name)
  LOWRANK_FIND(Init_thread);
  LOWRANK_FIND(Initialized);
  LOWRANK_FIND(Finalize);
  LOWRANK_FIND(Abort);
  LOWRANK_FIND(Comm_rank);
  LOWRANK_FIND(Comm_size);
  LOWRANK_FIND(Comm_set_errhandler);
  LOWRANK_FIND(Error_string);
  LOWRANK_FIND(Get_library_version);
  LOWRANK_FIND(Isend);
  LOWRANK_FIND(Irecv);
  LOWRANK_FIND(Test);
#undef LOWRANK_FIND
  char text[16384] = "";  // MPI_MAX_LIBRARY_VERSION_STRING is at most 8192
  int length = 0;
  library.call.Get_library_version(text, &length);
  const char* end = std::strpbrk(text, "\r\n");
  library.version.assign(text, end ? static_cast<size_t>(end - text) : std::strlen(text));

  // MPICH's and Intel's own libraries export this too, and answer -1.
  const auto abiVersion = reinterpret_cast<int (*)(int*, int*)>(findSymbol(handle, "MPI_Abi_get_version"));
  int major = -1, minor = -1;
  if (abiVersion) abiVersion(&major, &minor);
  if (major >= 1) {
    library.abi = "standard";
    library.world = 0x101;
    library.byte = 0x247;
    library.errorsReturn = 0x143;
    library.funneled = 1024;
    return library;
  }
  const auto address = [&](const char* name) { return reinterpret_cast<Handle>(findSymbol(handle, name)); };
  if (address("ompi_mpi_comm_world")) {
    library.abi = "openmpi";
    library.world = address("ompi_mpi_comm_world");
    library.byte = address("ompi_mpi_byte");
    library.errorsReturn = address("ompi_mpi_errors_return");
    return library;
  }
  for (const char* name : kMpichFamily) {
    if (!std::strstr(text, name)) continue;
    library.abi = "mpich";
    library.world = 0x44000000;
    library.byte = 0x4c00010d;
    library.errorsReturn = 0x54000001;
    library.statusIgnore = reinterpret_cast<void*>(1);
    return library;
  }
  throw "its binary interface is not known (it calls itself \"" + library.version + "\")";
}

}  // namespace lowrank::mpi
