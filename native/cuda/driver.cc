// Opens the display driver's library when a card is first asked for. Nothing links against it, so the addon loads
// everywhere. Not here: what the functions are (driver.h), who calls them (card.cc, commands.cc).
#include "driver.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include <mutex>
#include <string>

namespace lowrank::cuda {
namespace {

#ifdef _WIN32
constexpr const char* kLibraries[] = {"nvcuda.dll"};
void* openLibrary(const char* name) { return reinterpret_cast<void*>(LoadLibraryA(name)); }
void* findSymbol(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
#else
// The last is where WSL 2 keeps Windows' driver.
constexpr const char* kLibraries[] = {"libcuda.so.1", "libcuda.so", "/usr/lib/wsl/lib/libcuda.so.1"};
void* openLibrary(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
void* findSymbol(void* library, const char* name) { return dlsym(library, name); }
#endif

void* findLibrary(const char* library) {
  if (library && *library) return openLibrary(library);
  for (const char* name : kLibraries) {
    if (void* found = openLibrary(name)) return found;
  }
  return nullptr;
}

Driver driver;
std::string problemText;

/** Empty when everything was found and the driver has started. */
std::string load(const char* name) {
  void* library = findLibrary(name);
  if (!library) return "absent";
#define LOWRANK_CUDA_FIND(member, symbol, arguments)                                     \
  driver.member = reinterpret_cast<decltype(driver.member)>(findSymbol(library, #symbol)); \
  if (!driver.member) return "symbol " #symbol;
  LOWRANK_CUDA_DRIVER(LOWRANK_CUDA_FIND)
#undef LOWRANK_CUDA_FIND
  driver.emulated = findSymbol(library, "lowrankCudaEmulator") != nullptr;
  const Result result = driver.init(0);
  return result ? "init " + std::to_string(result) : "";
}

}  // namespace

const Driver* openDriver(const char* library, const char*& problem) {
  static std::once_flag once;
  std::call_once(once, [&] { problemText = load(library); });
  problem = problemText.c_str();
  return problemText.empty() ? &driver : nullptr;
}

}  // namespace lowrank::cuda
