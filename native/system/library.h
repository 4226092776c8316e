// Libraries opened while the program runs: a card's driver, MPI. Nothing links against them, so the addon loads
// everywhere. library-posix.cc and library-windows.cc hold the two ways. Not here: which libraries (cuda/driver.cc,
// mpi/abi.cc).
#pragma once

namespace lowrank {

/** Whose symbols the libraries that it loads later may find: its own, or everybody's, and then it stays for good. */
enum class Scope { Own, Everybody };

/** Null when there is none; openProblem() then says why, until this thread opens another. */
void* openLibrary(const char* name, Scope scope);
const char* openProblem();
/** Null when the library has none of that name. */
void* findSymbol(void* library, const char* name);

/** Keeps the library that holds this code in memory until the process ends, whoever unloads it. */
void keepLoaded(void (*function)());

}  // namespace lowrank
