// Opens the display driver's library when a card is first asked for. Nothing links against it, so the addon loads
// everywhere. Not here: what the functions are (driver.h), who calls them (card.cc, commands.cc).
#include "driver.h"

#include <mutex>
#include <string>

#include "system/library.h"

namespace lowrank::cuda {
namespace {

#ifdef _WIN32
constexpr const char* kLibraries[] = {"nvcuda.dll"};
#else
// The last is where WSL 2 keeps Windows' driver.
constexpr const char* kLibraries[] = {"libcuda.so.1", "libcuda.so", "/usr/lib/wsl/lib/libcuda.so.1"};
#endif

void* findLibrary(const char* library) {
  if (library && *library) return openLibrary(library, Scope::Own);
  for (const char* name : kLibraries) {
    if (void* found = openLibrary(name, Scope::Own)) return found;
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
