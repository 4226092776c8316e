// The part of CUDA's driver API that lowrank uses, declared anew so that no toolkit is needed: types, constants and the
// list of functions. driver.cc finds them in the display driver's own library when a card is first asked for; the
// emulator (emulator/driver.cc) defines the same symbols on the CPU. Source of names, values and layouts: the CUDA driver API
// reference, whose ABI only grows: a function that changes gets another symbol (_v2).
#pragma once
#include <cstddef>
#include <cstdint>

namespace lowrank::cuda {

using Result = int;  // 0 is success
using Device = int;
using Address = uint64_t;  // CUdeviceptr
using Handle = void*;      // contexts, modules, functions, streams, events, graphs and their nodes
using MemoryHandle = uint64_t;

constexpr Result kOutOfMemory = 2, kNotFound = 500, kNotReady = 600, kIllegalAddress = 700, kLaunchFailed = 719;

enum Attribute : int {
  kProcessors = 16,
  kComputeMajor = 75,
  kComputeMinor = 76,
  kMostSharedOptIn = 97,
  kVirtualMemory = 102,
};

constexpr int kFunctionMostDynamicShared = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr unsigned kEventWithoutTiming = 2;
constexpr unsigned kStreamNonBlocking = 1;

struct Location {
  int type;  // 1: a device
  int id;
};

struct AllocationProperties {  // CUmemAllocationProp
  int type;                    // 1: pinned
  int handleTypes;
  Location location;
  void* windowsAttributes;
  struct {
    unsigned char compression, gpuDirect;
    unsigned short usage;
    unsigned char reserved[4];
  } flags;
};

struct AccessDescription {  // CUmemAccessDesc
  Location location;
  int flags;  // 3: read and write
};

struct KernelNode {  // CUDA_KERNEL_NODE_PARAMS, the first version, which cuGraphAddKernelNode takes
  Handle function;
  unsigned gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes;
  void** arguments;
  void** extra;
};

// name, symbol, arguments
#define LOWRANK_CUDA_DRIVER(F)                                                                                          \
  F(init, cuInit, (unsigned flags))                                                                                     \
  F(driverVersion, cuDriverGetVersion, (int* version))                                                                  \
  F(deviceCount, cuDeviceGetCount, (int* count))                                                                        \
  F(device, cuDeviceGet, (Device * device, int index))                                                                  \
  F(deviceName, cuDeviceGetName, (char* name, int length, Device device))                                               \
  F(deviceMemory, cuDeviceTotalMem_v2, (size_t * bytes, Device device))                                                 \
  F(deviceAttribute, cuDeviceGetAttribute, (int* value, int attribute, Device device))                                  \
  F(retainContext, cuDevicePrimaryCtxRetain, (Handle * context, Device device))                                         \
  F(releaseContext, cuDevicePrimaryCtxRelease_v2, (Device device))                                                      \
  F(setCurrent, cuCtxSetCurrent, (Handle context))                                                                      \
  F(memoryInfo, cuMemGetInfo_v2, (size_t * freeBytes, size_t * totalBytes))                                             \
  F(granularity, cuMemGetAllocationGranularity, (size_t * bytes, const AllocationProperties* properties, int option))   \
  F(reserve, cuMemAddressReserve, (Address * address, size_t bytes, size_t alignment, Address wanted, uint64_t flags))  \
  F(unreserve, cuMemAddressFree, (Address address, size_t bytes))                                                       \
  F(createMemory, cuMemCreate, (MemoryHandle * handle, size_t bytes, const AllocationProperties* properties, uint64_t)) \
  F(releaseMemory, cuMemRelease, (MemoryHandle handle))                                                                 \
  F(map, cuMemMap, (Address address, size_t bytes, size_t offset, MemoryHandle handle, uint64_t flags))                 \
  F(unmap, cuMemUnmap, (Address address, size_t bytes))                                                                 \
  F(setAccess, cuMemSetAccess, (Address address, size_t bytes, const AccessDescription* access, size_t count))          \
  F(allocateHost, cuMemHostAlloc, (void** memory, size_t bytes, unsigned flags))                                        \
  F(freeHost, cuMemFreeHost, (void* memory))                                                                            \
  F(copyToDevice, cuMemcpyHtoDAsync_v2, (Address to, const void* from, size_t bytes, Handle stream))                    \
  F(copyToHost, cuMemcpyDtoHAsync_v2, (void* to, Address from, size_t bytes, Handle stream))                            \
  F(loadModule, cuModuleLoadDataEx, (Handle * module, const void* image, unsigned count, int* options, void** values))  \
  F(unloadModule, cuModuleUnload, (Handle module))                                                                      \
  F(findFunction, cuModuleGetFunction, (Handle * function, Handle module, const char* name))                            \
  F(setFunctionAttribute, cuFuncSetAttribute, (Handle function, int attribute, int value))                              \
  F(launch, cuLaunchKernel,                                                                                             \
    (Handle function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX, unsigned blockY, unsigned blockZ, \
     unsigned sharedBytes, Handle stream, void** arguments, void** extra))                                              \
  F(createStream, cuStreamCreate, (Handle * stream, unsigned flags))                                                    \
  F(destroyStream, cuStreamDestroy_v2, (Handle stream))                                                                 \
  F(waitForStream, cuStreamSynchronize, (Handle stream))                                                                \
  F(createEvent, cuEventCreate, (Handle * event, unsigned flags))                                                       \
  F(destroyEvent, cuEventDestroy_v2, (Handle event))                                                                    \
  F(recordEvent, cuEventRecord, (Handle event, Handle stream))                                                          \
  F(queryEvent, cuEventQuery, (Handle event))                                                                           \
  F(waitForEvent, cuEventSynchronize, (Handle event))                                                                   \
  F(elapsed, cuEventElapsedTime, (float* ms, Handle from, Handle to))                                                   \
  F(createGraph, cuGraphCreate, (Handle * graph, unsigned flags))                                                       \
  F(addKernel, cuGraphAddKernelNode,                                                                                    \
    (Handle * node, Handle graph, const Handle* after, size_t count, const KernelNode* kernel))                         \
  F(instantiate, cuGraphInstantiateWithFlags, (Handle * executable, Handle graph, uint64_t flags))                      \
  F(setKernel, cuGraphExecKernelNodeSetParams, (Handle executable, Handle node, const KernelNode* kernel))              \
  F(launchGraph, cuGraphLaunch, (Handle executable, Handle stream))                                                     \
  F(destroyExecutable, cuGraphExecDestroy, (Handle executable))                                                         \
  F(destroyGraph, cuGraphDestroy, (Handle graph))                                                                       \
  F(errorName, cuGetErrorName, (Result error, const char** name))                                                       \
  F(errorText, cuGetErrorString, (Result error, const char** text))

struct Driver {
#define LOWRANK_CUDA_MEMBER(name, symbol, arguments) Result(*name) arguments = nullptr;
  LOWRANK_CUDA_DRIVER(LOWRANK_CUDA_MEMBER)
#undef LOWRANK_CUDA_MEMBER
  /** The library that was opened is the emulator. */
  bool emulated = false;
};

/**
 * The driver's functions, found once a process; null where there is none, and `problem` says why: "absent", "symbol NAME" for a
 * driver that lacks one, "init CODE" for one that refuses to start. `library` names another library in place of the system's.
 */
const Driver* openDriver(const char* library, const char*& problem);

}  // namespace lowrank::cuda
