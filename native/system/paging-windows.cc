// paging.h by file mappings. The file has a name as long as it is mapped, and Windows deletes it when its last handle
// closes, however the process ends. Setting its end reserves its blocks.
#include "system/paging.h"

#include <windows.h>

#include <cerrno>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace lowrank {
namespace {

struct Mapping {
  size_t bytes;
  HANDLE file, section;
};

std::mutex mutex;

/** By address. Never destroyed, as threads may outlive statics. */
std::map<uintptr_t, Mapping>& mappings() {
  static auto* const all = new std::map<uintptr_t, Mapping>();
  return *all;
}

int errnoOf(DWORD error) {
  switch (error) {
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL:
      return ENOSPC;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION:
      return EACCES;
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
      return ENOENT;
    case ERROR_FILE_EXISTS:
    case ERROR_ALREADY_EXISTS:
      return EEXIST;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_COMMITMENT_LIMIT:
      return ENOMEM;
    default:
      return EIO;
  }
}

std::wstring wide(const char* utf8) {
  const int length = MultiByteToWideChar(CP_UTF8, 0, utf8, -1, nullptr, 0);
  if (length <= 0) return L"";
  std::wstring text(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, utf8, -1, text.data(), length);
  text.resize(static_cast<size_t>(length) - 1);
  return text;
}

/** The part of a range that lies in its mapping; 0 bytes where it lies in none. */
struct Range {
  char* address = nullptr;
  size_t bytes = 0;
  HANDLE file = nullptr;
};

Range rangeOf(void* address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(address);
  std::lock_guard<std::mutex> lock(mutex);
  auto found = mappings().upper_bound(begin);
  if (found == mappings().begin()) return {};
  --found;
  const uintptr_t end = found->first + found->second.bytes;
  if (begin >= end) return {};
  return {static_cast<char*>(address), bytes < end - begin ? bytes : end - begin, found->second.file};
}

/** 0, or an errno. */
int reserve(HANDLE file, size_t bytes) {
  LARGE_INTEGER size;
  size.QuadPart = static_cast<LONGLONG>(bytes);
  if (!SetFilePointerEx(file, size, nullptr, FILE_BEGIN) || !SetEndOfFile(file)) return errnoOf(GetLastError());
  return 0;
}

}  // namespace

int mapPaged(const char* path, size_t bytes, void*& address) {
  constexpr DWORD kFlags = FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE;
  const HANDLE file =
      CreateFileW(wide(path).c_str(), GENERIC_READ | GENERIC_WRITE | DELETE, 0, nullptr, CREATE_NEW, kFlags, nullptr);
  if (file == INVALID_HANDLE_VALUE) return errnoOf(GetLastError());
  int problem = reserve(file, bytes);
  HANDLE section = nullptr;
  if (problem == 0) {
    section = CreateFileMappingW(file, nullptr, PAGE_READWRITE, 0, 0, nullptr);
    if (!section) problem = errnoOf(GetLastError());
  }
  if (problem == 0) {
    address = MapViewOfFile(section, FILE_MAP_ALL_ACCESS, 0, 0, 0);
    if (!address) problem = errnoOf(GetLastError());
  }
  if (problem != 0) {
    if (section) CloseHandle(section);
    CloseHandle(file);
    return problem;
  }
  std::lock_guard<std::mutex> lock(mutex);
  mappings()[reinterpret_cast<uintptr_t>(address)] = {bytes, file, section};
  return 0;
}

void unmapPaged(void* address) {
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = mappings().find(reinterpret_cast<uintptr_t>(address));
  if (found == mappings().end()) return;
  UnmapViewOfFile(address);
  CloseHandle(found->second.section);
  CloseHandle(found->second.file);
  mappings().erase(found);
}

void prefetchPaged(void* address, size_t bytes) {
  const Range range = rangeOf(address, bytes);
  if (range.bytes == 0) return;
  WIN32_MEMORY_RANGE_ENTRY entry{range.address, range.bytes};
  PrefetchVirtualMemory(GetCurrentProcess(), 1, &entry, 0);
}

void writePaged(void* address, size_t bytes) {
  const Range range = rangeOf(address, bytes);
  if (range.bytes > 0) FlushViewOfFile(range.address, range.bytes);
}

void evictPaged(void* address, size_t bytes) {
  const Range range = rangeOf(address, bytes);
  if (range.bytes == 0) return;
  FlushViewOfFile(range.address, range.bytes);
  // Of pages that are not locked this takes them from the working set.
  VirtualUnlock(range.address, range.bytes);
}

}  // namespace lowrank
