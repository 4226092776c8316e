// MPI for JavaScript: jobs over memory by address, because they run while JavaScript does other things. Wrong types read
// as zero: the only caller is typed. Not here: what a job does (thread.cc).
#include "mpi/calls.h"

#include <cstring>
#include <string>
#include <vector>

#include "mpi/thread.h"

namespace lowrank::mpi {
namespace {

constexpr size_t kMostArguments = 7;

struct Arguments {
  napi_env env;
  napi_value values[kMostArguments];

  Arguments(napi_env e, napi_callback_info info) : env(e) {
    size_t count = kMostArguments;
    napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
  }
  double number(int i) const {
    double value = 0;
    napi_get_value_double(env, values[i], &value);
    return value;
  }
  void* address(int i) const { return reinterpret_cast<void*>(static_cast<uintptr_t>(number(i))); }
};

void set(napi_env env, napi_value object, const char* name, double value) {
  napi_value number;
  napi_create_double(env, value, &number);
  napi_set_named_property(env, object, name, number);
}

void set(napi_env env, napi_value object, const char* name, const std::string& value) {
  napi_value text;
  napi_create_string_utf8(env, value.c_str(), value.size(), &text);
  napi_set_named_property(env, object, name, text);
}

napi_value mpiStart(napi_env env, napi_callback_info info) {
  const Arguments given(env, info);
  char path[4096];
  size_t length = 0;
  if (napi_get_value_string_utf8(env, given.values[0], path, sizeof path, &length) != napi_ok) length = 0;
  path[length] = 0;
  std::string abi, version;
  try {
    const Started started = start(path, abi, version);
    napi_value result;
    napi_create_object(env, &result);
    set(env, result, "rank", started.rank);
    set(env, result, "size", started.size);
    set(env, result, "abi", abi);
    set(env, result, "version", version);
    return result;
  } catch (const std::string& reason) {
    napi_throw_error(env, nullptr, reason.c_str());
    return nullptr;
  }
}

/** mpiPost(kind, own, all, count, ranks, first, deadlineSeconds): the job's id. */
napi_value mpiPost(napi_env env, napi_callback_info info) {
  const Arguments given(env, info);
  const Job job{static_cast<Kind>(static_cast<int>(given.number(0))),
                given.address(1),
                given.address(2),
                static_cast<int64_t>(given.number(3)),
                static_cast<int>(given.number(4)),
                given.number(5) != 0,
                given.number(6)};
  napi_value result;
  napi_create_double(env, static_cast<double>(post(job)), &result);
  return result;
}

/** mpiWait(id, milliseconds): {state, silent, problem}. */
napi_value mpiWait(napi_env env, napi_callback_info info) {
  const Arguments given(env, info);
  std::vector<int> silent;
  std::string problem;
  const State state = wait(static_cast<int64_t>(given.number(0)), given.number(1), silent, problem);
  napi_value result, list;
  napi_create_object(env, &result);
  napi_create_array(env, &list);
  for (size_t i = 0; i < silent.size(); i++) {
    napi_value rank;
    napi_create_double(env, silent[i], &rank);
    napi_set_element(env, list, static_cast<uint32_t>(i), rank);
  }
  set(env, result, "state", static_cast<double>(state));
  set(env, result, "problem", problem);
  napi_set_named_property(env, result, "silent", list);
  return result;
}

napi_value mpiAbort(napi_env env, napi_callback_info info) {
  abortAll(static_cast<int>(Arguments(env, info).number(0)));
  return nullptr;
}

napi_value mpiIsUp(napi_env env, napi_callback_info) {
  napi_value result;
  napi_get_boolean(env, isUp(), &result);
  return result;
}

napi_value mpiTraffic(napi_env env, napi_callback_info) {
  const Traffic so = traffic();
  napi_value result;
  napi_create_object(env, &result);
  set(env, result, "bytesSent", so.bytesSent);
  set(env, result, "bytesReceived", so.bytesReceived);
  set(env, result, "busySeconds", so.busySeconds);
  return result;
}

napi_value mpiCopy(napi_env env, napi_callback_info info) {
  const Arguments given(env, info);
  const auto size = static_cast<size_t>(given.number(2));
  if (size > 0) std::memcpy(given.address(0), given.address(1), size);
  return nullptr;
}

}  // namespace

void defineCalls(napi_env env, napi_value exports) {
  const struct {
    const char* name;
    napi_callback callback;
  } calls[] = {{"mpiStart", mpiStart},
               {"mpiPost", mpiPost},
               {"mpiWait", mpiWait},
               {"mpiAbort", mpiAbort},
               {"mpiIsUp", mpiIsUp},
               {"mpiTraffic", mpiTraffic},
               {"mpiCopy", mpiCopy}};
  for (const auto& call : calls) {
    napi_value function;
    napi_create_function(env, call.name, NAPI_AUTO_LENGTH, call.callback, nullptr, &function);
    napi_set_named_property(env, exports, call.name, function);
  }
}

}  // namespace lowrank::mpi
