// available.h by what Windows says of itself. Jobs' limits are not asked for: beyond them an allocation fails.
#include "system/available.h"

#define NOMINMAX
#include <windows.h>

#include <algorithm>
#include <cstdint>

namespace lowrank {

size_t availableBytes() {
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof status;
  if (!GlobalMemoryStatusEx(&status)) return SIZE_MAX;
  return static_cast<size_t>(std::min(status.ullAvailPhys, status.ullAvailPageFile));
}

}  // namespace lowrank
