// The driver API of ../driver.h on the CPU, for tests: a card of compute capability 8.0 whose kernels run under fibers.cc the moment
// they are launched. Memory is the process's, mapped as the driver maps it; a backend that knows it runs here marks
// its blocks (emulatorBlock), which then begin as NaNs, are fenced behind and checked when freed and at every copy to the host. The
// first fault sticks, as on a card. LOWRANK_EMULATED_COMPUTE=75, _DRIVER=12020, _MEMORY=bytes and _CARDS=0 make a worse card.
#include "../driver.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "fibers.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace lowrank::cuda;

EXPORT const int lowrankCudaEmulator;
const int lowrankCudaEmulator = 1;

namespace {

constexpr size_t kGranularity = 2 << 20;
constexpr unsigned char kFence = 0xa5, kPoison = 0xff;

std::recursive_mutex mutex;
Result fault = 0;
int contexts = 0;
size_t takenBytes = 0;
struct Block {
  size_t sizeBytes, capacity;
};
std::map<Address, Block> blocks;
std::map<MemoryHandle, size_t> physical;
MemoryHandle lastPhysical = 0;

long setting(const char* name, long usual) {
  const char* text = std::getenv(name);
  return text && *text ? std::atol(text) : usual;
}

Result report(bool sound) {
  if (!sound && !fault) fault = kLaunchFailed;
  return fault;
}

unsigned char* at(Address address) { return reinterpret_cast<unsigned char*>(address); }

bool isFenced(Address address, const Block& block) {
  for (size_t i = block.sizeBytes; i < block.capacity; i++) {
    if (at(address)[i] == kFence) continue;
    std::fprintf(stderr, "cuda emulator: something wrote %zu bytes behind a block of %zu\n", i - block.sizeBytes,
                 block.sizeBytes);
    return false;
  }
  return true;
}

Result checkBlocks() {
  for (const auto& [address, block] : blocks) {
    if (!isFenced(address, block) && !fault) fault = kIllegalAddress;
  }
  return fault;
}

}  // namespace

void emulator::markBlock(unsigned long long address, unsigned long long sizeBytes, unsigned long long capacity, bool live) {
  if (!live) {
    const auto found = blocks.find(address);
    if (found == blocks.end()) return;
    if (!isFenced(address, found->second)) fail("frees a block whose fence was written to");
    std::memset(at(address), kPoison, found->second.capacity);
    blocks.erase(found);
    return;
  }
  std::memset(at(address), kPoison, sizeBytes);
  std::memset(at(address) + sizeBytes, kFence, capacity - sizeBytes);
  blocks[address] = {sizeBytes, capacity};
}

namespace {

struct Event {
  int unused;
};
struct Launch {
  const emulator::Registration* kernel;
  emulator::Index grid;
  unsigned threads, sharedBytes;
  std::vector<unsigned char> arguments;
};
using Graph = std::vector<std::unique_ptr<Launch>>;
/** Node handles are those of the graph, numbered from 1. */
struct Executable {
  std::vector<Launch> launches;
};

Launch launchOf(const KernelNode& node) {
  const auto* kernel = static_cast<const emulator::Registration*>(node.function);
  const auto* bytes = static_cast<const unsigned char*>(node.arguments[0]);
  return {kernel, {node.gridX, node.gridY, node.gridZ}, node.blockX, node.sharedBytes, {bytes, bytes + kernel->argumentBytes}};
}

Result perform(const Launch& l) {
  if (fault) return fault;
  if (!l.grid.x || !l.grid.y || !l.grid.z || l.grid.y > 65535 || l.grid.z > 65535) return 1;
  return report(emulator::run(*l.kernel, l.grid, l.threads, l.sharedBytes, l.arguments.data()));
}

}  // namespace

using Lock = std::lock_guard<std::recursive_mutex>;

EXPORT Result cuInit(unsigned) { return 0; }
EXPORT Result cuDriverGetVersion(int* version) { return *version = static_cast<int>(setting("LOWRANK_EMULATED_DRIVER", 12040)), 0; }
EXPORT Result cuDeviceGetCount(int* count) { return *count = static_cast<int>(setting("LOWRANK_EMULATED_CARDS", 1)), 0; }
EXPORT Result cuDeviceGet(Device* device, int index) { return *device = index, 0; }
EXPORT Result cuDeviceGetName(char* name, int length, Device) { return std::snprintf(name, static_cast<size_t>(length), "CUDA emulator"), 0; }
EXPORT Result cuDeviceTotalMem_v2(size_t* bytes, Device) { return *bytes = static_cast<size_t>(setting("LOWRANK_EMULATED_MEMORY", 8l << 30)), 0; }
EXPORT Result cuDeviceGetAttribute(int* value, int attribute, Device) {
  const int compute = static_cast<int>(setting("LOWRANK_EMULATED_COMPUTE", 80));
  switch (attribute) {
    case kProcessors:
      *value = 4;
      break;
    case kComputeMajor:
      *value = compute / 10;
      break;
    case kComputeMinor:
      *value = compute % 10;
      break;
    case kMostSharedOptIn:
      *value = 163 << 10;
      break;
    case kVirtualMemory:
      *value = 1;
      break;
    default:
      return 1;
  }
  return 0;
}
EXPORT Result cuDevicePrimaryCtxRetain(Handle* context, Device) {
  const Lock lock(mutex);
  contexts++;
  *context = &contexts;
  return 0;
}
EXPORT Result cuDevicePrimaryCtxRelease_v2(Device) {
  const Lock lock(mutex);
  if (--contexts == 0) fault = 0;
  return 0;
}
EXPORT Result cuCtxSetCurrent(Handle) { return 0; }
EXPORT Result cuMemGetInfo_v2(size_t* freeBytes, size_t* totalBytes) {
  const Lock lock(mutex);
  cuDeviceTotalMem_v2(totalBytes, 0);
  *freeBytes = *totalBytes - takenBytes;
  return 0;
}
EXPORT Result cuMemGetAllocationGranularity(size_t* bytes, const AllocationProperties*, int) { return *bytes = kGranularity, 0; }
EXPORT Result cuMemAddressReserve(Address* address, size_t bytes, size_t, Address, uint64_t) {
  void* memory = mmap(nullptr, bytes + kGranularity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return kOutOfMemory;
  // The whole mapping is given back at the process's end: only its aligned part is known outside.
  *address = (reinterpret_cast<Address>(memory) + kGranularity - 1) / kGranularity * kGranularity;
  return 0;
}
EXPORT Result cuMemAddressFree(Address address, size_t bytes) { return munmap(at(address), bytes) ? 1 : 0; }
EXPORT Result cuMemCreate(MemoryHandle* handle, size_t bytes, const AllocationProperties*, uint64_t) {
  const Lock lock(mutex);
  size_t freeBytes, totalBytes;
  cuMemGetInfo_v2(&freeBytes, &totalBytes);
  if (bytes % kGranularity) return 1;
  if (bytes > freeBytes) return kOutOfMemory;
  takenBytes += bytes;
  physical[++lastPhysical] = bytes;
  *handle = lastPhysical;
  return 0;
}
EXPORT Result cuMemRelease(MemoryHandle handle) {
  const Lock lock(mutex);
  const auto found = physical.find(handle);
  if (found == physical.end()) return 1;
  takenBytes -= found->second;
  physical.erase(found);
  return 0;
}
EXPORT Result cuMemMap(Address address, size_t bytes, size_t, MemoryHandle, uint64_t) {
  return mprotect(at(address), bytes, PROT_READ | PROT_WRITE) ? kOutOfMemory : 0;
}
EXPORT Result cuMemSetAccess(Address, size_t, const AccessDescription*, size_t) { return 0; }
EXPORT Result cuMemUnmap(Address address, size_t bytes) {
  const Lock lock(mutex);
  blocks.erase(blocks.lower_bound(address), blocks.lower_bound(address + bytes));
  madvise(at(address), bytes, MADV_DONTNEED);
  return mprotect(at(address), bytes, PROT_NONE) ? 1 : 0;
}
EXPORT Result cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  return *memory ? 0 : kOutOfMemory;
}
EXPORT Result cuMemFreeHost(void* memory) {
  std::free(memory);
  return 0;
}
EXPORT Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Handle) {
  const Lock lock(mutex);
  if (fault) return fault;
  std::memcpy(at(to), from, bytes);
  return 0;
}
EXPORT Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Handle) {
  const Lock lock(mutex);
  if (checkBlocks()) return fault;
  std::memcpy(to, at(from), bytes);
  return 0;
}
EXPORT Result cuModuleLoadDataEx(Handle* module, const void* image, unsigned, int*, void**) {
  *module = const_cast<void*>(image);
  return 0;
}
EXPORT Result cuModuleUnload(Handle) { return 0; }
EXPORT Result cuModuleGetFunction(Handle* function, Handle, const char* name) {
  const emulator::Registration* found = emulator::findKernel(name);
  *function = const_cast<emulator::Registration*>(found);
  return found ? 0 : kNotFound;
}
EXPORT Result cuFuncSetAttribute(Handle, int, int) { return 0; }
EXPORT Result cuLaunchKernel(Handle function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX, unsigned blockY,
                             unsigned blockZ, unsigned sharedBytes, Handle, void** arguments, void** extra) {
  const Lock lock(mutex);
  return perform(launchOf({function, gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes, arguments, extra}));
}
EXPORT Result cuStreamCreate(Handle* stream, unsigned) { return *stream = new Event{}, 0; }
EXPORT Result cuStreamDestroy_v2(Handle stream) { return delete static_cast<Event*>(stream), 0; }
EXPORT Result cuStreamSynchronize(Handle) {
  const Lock lock(mutex);
  return checkBlocks();
}
EXPORT Result cuEventCreate(Handle* event, unsigned) { return *event = new Event{}, 0; }
EXPORT Result cuEventDestroy_v2(Handle event) { return delete static_cast<Event*>(event), 0; }
EXPORT Result cuEventRecord(Handle, Handle) { return fault; }
EXPORT Result cuEventQuery(Handle) { return fault; }
EXPORT Result cuEventSynchronize(Handle) { return fault; }
EXPORT Result cuEventElapsedTime(float* ms, Handle, Handle) { return *ms = 0, fault; }
EXPORT Result cuGraphCreate(Handle* graph, unsigned) { return *graph = new Graph(), 0; }
EXPORT Result cuGraphAddKernelNode(Handle* node, Handle graph, const Handle*, size_t, const KernelNode* kernel) {
  auto& launches = *static_cast<Graph*>(graph);
  launches.push_back(std::make_unique<Launch>(launchOf(*kernel)));
  *node = reinterpret_cast<Handle>(launches.size());
  return 0;
}
EXPORT Result cuGraphInstantiateWithFlags(Handle* executable, Handle graph, uint64_t) {
  auto made = std::make_unique<Executable>();
  for (const auto& launch : *static_cast<Graph*>(graph)) made->launches.push_back(*launch);
  *executable = made.release();
  return 0;
}
EXPORT Result cuGraphExecKernelNodeSetParams(Handle executable, Handle node, const KernelNode* kernel) {
  auto& launches = static_cast<Executable*>(executable)->launches;
  const size_t i = reinterpret_cast<size_t>(node) - 1;
  if (i >= launches.size() || launches[i].kernel != kernel->function) return 1;
  launches[i] = launchOf(*kernel);
  return 0;
}
EXPORT Result cuGraphLaunch(Handle executable, Handle) {
  const Lock lock(mutex);
  for (const Launch& launch : static_cast<Executable*>(executable)->launches) {
    if (const Result result = perform(launch)) return result;
  }
  return 0;
}
EXPORT Result cuGraphExecDestroy(Handle executable) { return delete static_cast<Executable*>(executable), 0; }
EXPORT Result cuGraphDestroy(Handle graph) { return delete static_cast<Graph*>(graph), 0; }
EXPORT Result cuGetErrorName(Result error, const char** name) {
  *name = error == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY" : error == kNotFound ? "CUDA_ERROR_NOT_FOUND" : error == kIllegalAddress ? "CUDA_ERROR_ILLEGAL_ADDRESS" : error == kLaunchFailed ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_INVALID_VALUE";
  return 0;
}
EXPORT Result cuGetErrorString(Result, const char** text) { return *text = "reported by the emulator", 0; }
