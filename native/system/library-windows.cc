// library.h by LoadLibrary. Windows keeps each library's symbols to itself: Scope only decides whether it stays.
#include "system/library.h"

#include <windows.h>

#include <cstdio>

namespace lowrank {
namespace {

thread_local char problem[64] = "";

void pin(LPCSTR address) {
  HMODULE module;
  GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, address, &module);
}

}  // namespace

void* openLibrary(const char* name, Scope scope) {
  const HMODULE library = LoadLibraryA(name);
  if (!library) std::snprintf(problem, sizeof problem, "Windows' error %lu", GetLastError());
  else if (scope == Scope::Everybody) pin(reinterpret_cast<LPCSTR>(library));
  return reinterpret_cast<void*>(library);
}

const char* openProblem() { return problem; }

void* findSymbol(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}

void keepLoaded(void (*function)()) { pin(reinterpret_cast<LPCSTR>(function)); }

}  // namespace lowrank
