// Reads /proc and the control groups, versions 1 and 2: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst
// of the Linux kernel. A group's limit holds for all groups inside it, so every ancestor is asked.
#include "system/available.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace lowrank {
namespace {

constexpr size_t kUnlimited = SIZE_MAX;

/** A small file of /proc or /sys; empty where there is none. */
std::string readText(const std::string& path) {
  FILE* file = std::fopen(path.c_str(), "re");
  if (!file) return "";
  std::string text;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0 && text.size() < (1u << 20);) text.append(buffer, n);
  std::fclose(file);
  return text;
}

/** The number after `key` at the start of a line, or `otherwise`. */
size_t field(const std::string& text, const std::string& key, size_t otherwise) {
  for (size_t at = 0; (at = text.find(key, at)) != std::string::npos; at += key.size()) {
    if (at > 0 && text[at - 1] != '\n') continue;
    return std::strtoull(text.c_str() + at + key.size(), nullptr, 10);
  }
  return otherwise;
}

/** A file that holds one number; "max", or no file, is no limit. */
size_t numberIn(const std::string& path) {
  const std::string text = readText(path);
  if (text.empty() || text[0] < '0' || text[0] > '9') return kUnlimited;
  return std::strtoull(text.c_str(), nullptr, 10);
}

size_t minus(size_t a, size_t b) { return a > b ? a - b : 0; }

struct GroupFiles {
  const char *limit, *high, *usage, *inactive, *active;
};

/** What the group at `path` below `root` and its ancestors leave. */
size_t leftInGroups(const std::string& root, std::string path, const GroupFiles& files) {
  size_t left = kUnlimited;
  for (;;) {
    const std::string folder = root + path;
    // Beyond version 2's "high" the system slows a process down until it hardly moves.
    const size_t high = files.high ? numberIn(folder + files.high) : kUnlimited;
    const size_t limit = std::min(numberIn(folder + files.limit), high);
    if (limit < kUnlimited / 4) {  // version 1 writes "no limit" as a number near 2^63
      const std::string stat = readText(folder + "/memory.stat");
      const size_t cache = field(stat, files.inactive, 0) + field(stat, files.active, 0);
      left = std::min(left, minus(limit, minus(numberIn(folder + files.usage), cache)));
    }
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return left;
    path.resize(slash);
  }
}

/** /proc/self/cgroup: "4:memory:/path" in version 1, "0::/path" in version 2. */
size_t leftInControlGroups() {
  const std::string groups = readText("/proc/self/cgroup");
  size_t left = kUnlimited;
  for (size_t at = 0; at < groups.size();) {
    size_t end = groups.find('\n', at);
    if (end == std::string::npos) end = groups.size();
    const std::string line = groups.substr(at, end - at);
    at = end + 1;
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = line.substr(first, second - first);
    for (char& c : controllers) c = c == ':' ? ',' : c;
    controllers += ',';
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers == ",,") {
      const GroupFiles files{"/memory.max", "/memory.high", "/memory.current", "inactive_file ", "active_file "};
      left = std::min(left, leftInGroups("/sys/fs/cgroup", path, files));
    } else if (controllers.find(",memory,") != std::string::npos) {
      const GroupFiles files{"/memory.limit_in_bytes", nullptr, "/memory.usage_in_bytes", "total_inactive_file ",
                             "total_active_file "};
      left = std::min(left, leftInGroups("/sys/fs/cgroup/memory", path, files));
    }
  }
  return left;
}

/** RLIMIT_AS counts the address space, RLIMIT_DATA private writable memory. */
size_t leftInLimits() {
  size_t left = kUnlimited;
#if defined(__linux__)
  // statm: size, resident, shared, text, lib, data, in pages.
  size_t pages[6] = {};
  const std::string text = readText("/proc/self/statm");
  const char* from = text.c_str();
  for (size_t& count : pages) {
    char* end = nullptr;
    count = std::strtoull(from, &end, 10);
    from = end;
  }
  const auto pageBytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    left = std::min(left, minus(limit.rlim_cur, pages[0] * pageBytes));
  }
  if (getrlimit(RLIMIT_DATA, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    left = std::min(left, minus(limit.rlim_cur, pages[5] * pageBytes));
  }
#endif
  return left;
}

/** Memory that can be had without swapping, and swap itself not counted. */
size_t leftInSystem() {
  const size_t kilobytes = field(readText("/proc/meminfo"), "MemAvailable:", kUnlimited);
  return kilobytes == kUnlimited ? kUnlimited : kilobytes * 1024;
}

}  // namespace

size_t availableBytes() { return std::min({leftInSystem(), leftInControlGroups(), leftInLimits()}); }

}  // namespace lowrank
