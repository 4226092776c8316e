// paging.h by mmap. On Linux, sync_file_range starts and awaits the writes of a range, and only clean pages can be
// dropped: MADV_DONTNEED takes them from the process, POSIX_FADV_DONTNEED from the page cache. Elsewhere msync stands
// in, and the page cache is the system's own affair.
#include "system/paging.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <map>
#include <mutex>

namespace lowrank {
namespace {

struct Mapping {
  size_t bytes;
  int file;
};

std::mutex mutex;

/** By address. Never destroyed, as threads may outlive statics. */
std::map<uintptr_t, Mapping>& mappings() {
  static auto* const all = new std::map<uintptr_t, Mapping>();
  return *all;
}

size_t pageBytes() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

/** The whole pages inside a range, and where they lie in the file. */
struct Pages {
  char* address = nullptr;
  size_t bytes = 0;
  off_t offset = 0;
  int file = -1;
};

Pages wholePages(void* address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(address);
  std::lock_guard<std::mutex> lock(mutex);
  auto found = mappings().upper_bound(begin);
  if (found == mappings().begin()) return {};
  --found;
  const uintptr_t start = found->first;
  const size_t size = found->second.bytes;
  if (begin >= start + size) return {};
  const uintptr_t first = (begin + pageBytes() - 1) / pageBytes() * pageBytes();
  uintptr_t last = (begin + bytes) / pageBytes() * pageBytes();
  if (begin + bytes >= start + size) last = start + (size + pageBytes() - 1) / pageBytes() * pageBytes();
  if (last <= first) return {};
  return {reinterpret_cast<char*>(first), last - first, static_cast<off_t>(first - start), found->second.file};
}

/** 0, or an errno. */
int reserve(int file, size_t bytes) {
  // Asked first, since a reservation that fails midway would for a moment have filled the disk for everybody else.
  struct statvfs disk;
  if (fstatvfs(file, &disk) == 0 && static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize < bytes) return ENOSPC;
#if defined(__APPLE__)
  fstore_t store = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, static_cast<off_t>(bytes), 0};
  if (fcntl(file, F_PREALLOCATE, &store) != 0) return errno;
  return ftruncate(file, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
#else
  return posix_fallocate(file, 0, static_cast<off_t>(bytes));
#endif
}

}  // namespace

int mapPaged(const char* path, size_t bytes, void*& address) {
  const int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return errno;
  unlink(path);
  int problem = reserve(file, bytes);
  if (problem == 0) {
    address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (address == MAP_FAILED) problem = errno;
  }
  if (problem != 0) {
    close(file);
    return problem;
  }
  std::lock_guard<std::mutex> lock(mutex);
  mappings()[reinterpret_cast<uintptr_t>(address)] = {bytes, file};
  return 0;
}

void unmapPaged(void* address) {
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = mappings().find(reinterpret_cast<uintptr_t>(address));
  if (found == mappings().end()) return;
  munmap(address, found->second.bytes);
  close(found->second.file);
  mappings().erase(found);
}

void prefetchPaged(void* address, size_t bytes) {
  const Pages pages = wholePages(address, bytes);
  if (pages.bytes > 0) madvise(pages.address, pages.bytes, MADV_WILLNEED);
}

void writePaged(void* address, size_t bytes) {
  const Pages pages = wholePages(address, bytes);
  if (pages.bytes == 0) return;
#if defined(__linux__)
  sync_file_range(pages.file, pages.offset, static_cast<off_t>(pages.bytes), SYNC_FILE_RANGE_WRITE);
#else
  msync(pages.address, pages.bytes, MS_ASYNC);
#endif
}

void evictPaged(void* address, size_t bytes) {
  const Pages pages = wholePages(address, bytes);
  if (pages.bytes == 0) return;
#if defined(__linux__)
  const auto length = static_cast<off_t>(pages.bytes);
  constexpr unsigned kWriteAndWait =
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  // Where the range cannot be written the pages stay dirty, and then the advice below drops none of them.
  sync_file_range(pages.file, pages.offset, length, kWriteAndWait);
  madvise(pages.address, pages.bytes, MADV_DONTNEED);
  posix_fadvise(pages.file, pages.offset, length, POSIX_FADV_DONTNEED);
#else
  msync(pages.address, pages.bytes, MS_SYNC);
#endif
}

}  // namespace lowrank
