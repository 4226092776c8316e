// The Node-API face of the engine: memory, kernel calls, the instruction set, measurements. What JavaScript sees
// is typed in src/backend/cpu/addon.node.ts. Each JavaScript context that loads the addon has an instance of its
// own (instruction set, argument array); memory and threads belong to the process.
#include <node_api.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <string>

#include "call.h"
#include "cuda/face.h"
#include "largest.h"
#include "measure.h"
#include "memory.h"
#include "mpi/calls.h"
#include "system/available.h"
#include "system/library.h"
#include "system/paging.h"
#include "threads.h"

namespace lowrank {
namespace {

struct Instance {
  const Isa* isa = nullptr;
  double* arguments = nullptr;  // the memory of exports.args, alive as long as the instance
  napi_ref keepArguments = nullptr;
};

Instance& instanceOf(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<Instance*>(data);
}

/** Arguments of a call from JavaScript. Wrong types read as zero: the only caller is typed. */
struct Call {
  napi_env env;
  napi_value values[4];

  Call(napi_env e, napi_callback_info info) : env(e) {
    size_t count = 4;
    napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
  }
  double number(int i) const {
    double value = 0;
    napi_get_value_double(env, values[i], &value);
    return value;
  }
  void* address(int i) const { return reinterpret_cast<void*>(static_cast<uintptr_t>(number(i))); }
  std::string text(int i) const {
    char buffer[64];
    size_t length = 0;
    if (napi_get_value_string_utf8(env, values[i], buffer, sizeof buffer, &length) != napi_ok) return "";
    return {buffer, length};
  }
  /** Data and length of a Uint8Array. */
  void* bytes(int i, size_t& length) const {
    void* data = nullptr;
    length = 0;
    napi_get_typedarray_info(env, values[i], nullptr, &length, &data, nullptr, nullptr);
    return data;
  }
};

napi_value number(napi_env env, double value) {
  napi_value result;
  napi_create_double(env, value, &result);
  return result;
}

napi_value text(napi_env env, const char* value) {
  napi_value result;
  napi_create_string_utf8(env, value, NAPI_AUTO_LENGTH, &result);
  return result;
}

napi_value allocate(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  void* address = allocateBytes(static_cast<size_t>(call.number(0)));
  return number(env, static_cast<double>(reinterpret_cast<uintptr_t>(address)));
}

napi_value freeBlock(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  freeBytes(call.address(0), static_cast<size_t>(call.number(1)));
  return nullptr;
}

napi_value write(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  size_t length;
  const void* data = call.bytes(1, length);
  if (length > 0) std::memcpy(call.address(0), data, length);
  return nullptr;
}

napi_value read(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  size_t length;
  void* data = call.bytes(1, length);
  if (length > 0) std::memcpy(data, call.address(0), length);
  return nullptr;
}

/** largest(address, columns, into): of each of its rows the index of the largest element. */
napi_value largest(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  size_t length;
  auto* into = static_cast<int32_t*>(call.bytes(2, length));
  const auto columns = static_cast<int64_t>(call.number(1));
  const auto* rows = static_cast<const float*>(call.address(0));
  parallelTasks(static_cast<int64_t>(length), [&](int64_t i, int) { into[i] = indexOfLargest(rows + i * columns, columns); });
  return nullptr;
}

napi_value runKernels(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  const Instance& instance = instanceOf(env);
  const double length = call.number(0);
  const char* kernel = "";
  const Outcome outcome = length <= kMostQueued
                              ? runCalls(*instance.isa, instance.arguments, static_cast<int64_t>(length), kernel)
                              : Outcome::Invalid;
  if (outcome == Outcome::OutOfMemory) {
    const std::string message = std::string("out of memory in ") + kernel + ": there is none left for its scratch space";
    napi_throw_error(env, "ERR_OUT_OF_MEMORY", message.c_str());
  } else if (outcome == Outcome::Invalid) {
    napi_throw_error(env, nullptr, (std::string("the native engine cannot run this call: ") + kernel).c_str());
  }
  return nullptr;
}

napi_value setThreads(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  setThreadCount(static_cast<int>(call.number(0)));
  return number(env, threadCount());
}

napi_value setIsa(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  const Isa* isa = findIsa(call.text(0).c_str());
  if (isa) instanceOf(env).isa = isa;
  napi_value result;
  napi_get_boolean(env, isa != nullptr, &result);
  return result;
}

napi_value bf16IsFaster(napi_env env, napi_callback_info) {
  napi_value result;
  napi_get_boolean(env, instanceOf(env).isa->linear->bf16IsFaster(), &result);
  return result;
}

napi_value peak(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  const auto precision = call.number(0) != 0 ? Precision::BF16 : Precision::F32;
  return number(env, peakGflops(*instanceOf(env).isa, precision));
}

napi_value bandwidth(napi_env env, napi_callback_info) { return number(env, streamBandwidth()); }

napi_value memory(napi_env env, napi_callback_info) {
  napi_value result;
  napi_create_object(env, &result);
  napi_set_named_property(env, result, "cachedBytes", number(env, static_cast<double>(cachedBytes())));
  napi_set_named_property(env, result, "scratchBytes", number(env, static_cast<double>(scratchBytes())));
  return result;
}

napi_value available(napi_env env, napi_callback_info) {
  return number(env, static_cast<double>(availableBytes()));
}

/** mapPaged(path, bytes): the address, or minus an errno. */
napi_value mapFile(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  char path[4096];
  size_t length = 0;
  if (napi_get_value_string_utf8(env, call.values[0], path, sizeof path, &length) != napi_ok) return number(env, -EINVAL);
  if (length + 1 >= sizeof path) return number(env, -ENAMETOOLONG);
  void* address = nullptr;
  const int problem = mapPaged(path, static_cast<size_t>(call.number(1)), address);
  return number(env, problem ? -problem : static_cast<double>(reinterpret_cast<uintptr_t>(address)));
}

napi_value unmapFile(napi_env env, napi_callback_info info) {
  unmapPaged(Call(env, info).address(0));
  return nullptr;
}

template <void (*advise)(void*, size_t)>
napi_value onPages(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  advise(call.address(0), static_cast<size_t>(call.number(1)));
  return nullptr;
}

napi_value trim(napi_env, napi_callback_info) {
  trimCache();
  return nullptr;
}

void define(napi_env env, napi_value exports, const char* name, napi_callback callback) {
  napi_value function;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
  napi_set_named_property(env, exports, name, function);
}

/** [[name, arguments], ...], in the order of the list. */
napi_value signatures(napi_env env, const Signature* list) {
  napi_value result;
  napi_create_array(env, &result);
  for (uint32_t i = 0; list[i].name; i++) {
    napi_value pair;
    napi_create_array(env, &pair);
    napi_set_element(env, pair, 0, text(env, list[i].name));
    if (list[i].arguments) napi_set_element(env, pair, 1, text(env, list[i].arguments));
    napi_set_element(env, result, i, pair);
  }
  return result;
}

void defineData(napi_env env, napi_value exports, Instance& instance) {
  napi_value buffer, array;
  void* data = nullptr;
  napi_create_arraybuffer(env, kMostQueued * sizeof(double), &data, &buffer);
  napi_create_typedarray(env, napi_float64_array, kMostQueued, buffer, 0, &array);
  napi_create_reference(env, array, 1, &instance.keepArguments);
  instance.arguments = static_cast<double*>(data);
  napi_set_named_property(env, exports, "args", array);
  napi_set_named_property(env, exports, "mostArguments", number(env, kMostArguments));

  napi_set_named_property(env, exports, "kernels", signatures(env, kernelSignatures()));
  napi_set_named_property(env, exports, "types", signatures(env, typeSignatures()));

  int count;
  const Isa* const* isas = availableIsas(count);
  instance.isa = isas[0];
  napi_value names;
  napi_create_array(env, &names);
  for (int i = 0; i < count; i++) napi_set_element(env, names, static_cast<uint32_t>(i), text(env, isas[i]->name));
  napi_set_named_property(env, exports, "isas", names);
}

/** Node unloads an addon when the worker that loaded it ends; the pool's threads must not lose their code. */
void stayLoaded() { keepLoaded(&stayLoaded); }

}  // namespace
}  // namespace lowrank

NAPI_MODULE_INIT() {
  using namespace lowrank;
  stayLoaded();
  auto* instance = new Instance();
  napi_set_instance_data(
      env, instance, [](napi_env, void* data, void*) { delete static_cast<Instance*>(data); }, nullptr);
  define(env, exports, "allocate", allocate);
  define(env, exports, "free", freeBlock);
  define(env, exports, "write", write);
  define(env, exports, "read", read);
  define(env, exports, "largest", largest);
  define(env, exports, "call", runKernels);
  define(env, exports, "setThreads", setThreads);
  define(env, exports, "setIsa", setIsa);
  define(env, exports, "bf16IsFaster", bf16IsFaster);
  define(env, exports, "peakGflops", peak);
  define(env, exports, "streamBandwidth", bandwidth);
  define(env, exports, "memory", memory);
  define(env, exports, "trim", trim);
  define(env, exports, "available", available);
  define(env, exports, "mapPaged", mapFile);
  define(env, exports, "unmapPaged", unmapFile);
  define(env, exports, "prefetchPaged", onPages<prefetchPaged>);
  define(env, exports, "writePaged", onPages<writePaged>);
  define(env, exports, "evictPaged", onPages<evictPaged>);
  mpi::defineCalls(env, exports);
  defineData(env, exports, *instance);
  napi_set_named_property(env, exports, "cuda", cuda::makeFace(env));
  return exports;
}
