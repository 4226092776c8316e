// The Node-API face of a card (face.h). A failure of the driver's is thrown with its code as "CUDA_<number>".
#include "face.h"

#include <cstring>
#include <string>

#include "card.h"
#include "commands.h"

namespace lowrank::cuda {
namespace {

using Shared = std::shared_ptr<Card>;

struct Call {
  napi_env env;
  napi_value values[5];

  Call(napi_env e, napi_callback_info info) : env(e) {
    size_t count = 5;
    napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
  }
  double number(int i) const {
    double value = 0;
    napi_get_value_double(env, values[i], &value);
    return value;
  }
  Address address(int i) const { return static_cast<Address>(number(i)); }
  size_t size(int i) const { return static_cast<size_t>(number(i)); }
  std::string text(int i) const {
    size_t length = 0;
    if (napi_get_value_string_utf8(env, values[i], nullptr, 0, &length) != napi_ok || length > 4096) return "";
    std::string found(length, '\0');
    napi_get_value_string_utf8(env, values[i], found.data(), length + 1, &length);
    return found;
  }
  const unsigned char* bytes(int i, size_t& length) const {
    void* data = nullptr;
    length = 0;
    napi_get_typedarray_info(env, values[i], nullptr, &length, &data, nullptr, nullptr);
    return static_cast<const unsigned char*>(data);
  }
  /** The card that is the first argument, made the thread's. */
  Shared card() const {
    void* data = nullptr;
    if (napi_get_value_external(env, values[0], &data) != napi_ok || !data || !*static_cast<Shared*>(data))
      throw Failure{0, "the card was closed"};
    const Shared card = *static_cast<Shared*>(data);
    card->use();
    return card;
  }
};

napi_value number(napi_env env, double value) {
  napi_value result;
  napi_create_double(env, value, &result);
  return result;
}

napi_value boolean(napi_env env, bool value) {
  napi_value result;
  napi_get_boolean(env, value, &result);
  return result;
}

napi_value text(napi_env env, const char* value) {
  napi_value result;
  napi_create_string_utf8(env, value, NAPI_AUTO_LENGTH, &result);
  return result;
}

void set(napi_env env, napi_value object, const char* name, napi_value value) {
  napi_set_named_property(env, object, name, value);
}

napi_value errorOf(napi_env env, const Failure& failure) {
  napi_value error;
  napi_create_error(env, text(env, ("CUDA_" + std::to_string(failure.code)).c_str()), text(env, failure.text.c_str()), &error);
  return error;
}

/** A function of JavaScript's whose failures are thrown there. */
template <napi_value (*body)(const Call&)>
napi_value guarded(napi_env env, napi_callback_info info) {
  try {
    return body(Call(env, info));
  } catch (const Failure& failure) {
    napi_throw(env, errorOf(env, failure));
  } catch (const std::exception& error) {
    napi_throw(env, errorOf(env, {0, error.what()}));
  }
  return nullptr;
}

double attribute(const Driver& driver, Device device, Attribute which) {
  int value = 0;
  driver.deviceAttribute(&value, which, device);
  return value;
}

/** probe(library): what the driver says of itself and its cards, or why there is none. */
napi_value probe(const Call& call) {
  const napi_env env = call.env;
  napi_value result, cards;
  napi_create_object(env, &result);
  napi_create_array(env, &cards);
  const char* problem = "";
  const Driver* driver = openDriver(call.text(0).c_str(), problem);
  set(env, result, "problem", text(env, problem));
  set(env, result, "cards", cards);
  int version = 0, count = 0;
  if (driver) {
    driver->driverVersion(&version);
    if (driver->deviceCount(&count)) count = 0;
  }
  set(env, result, "driverVersion", number(env, version));
  set(env, result, "emulated", boolean(env, driver && driver->emulated));
  for (int i = 0; i < count; i++) {
    char name[256] = "";
    size_t bytes = 0;
    Device device = 0;
    driver->device(&device, i);
    driver->deviceName(name, sizeof name, device);
    driver->deviceMemory(&bytes, device);
    napi_value card;
    napi_create_object(env, &card);
    set(env, card, "name", text(env, name));
    set(env, card, "memoryBytes", number(env, static_cast<double>(bytes)));
    set(env, card, "computeMajor", number(env, attribute(*driver, device, kComputeMajor)));
    set(env, card, "computeMinor", number(env, attribute(*driver, device, kComputeMinor)));
    set(env, card, "processors", number(env, attribute(*driver, device, kProcessors)));
    set(env, card, "mostSharedBytes", number(env, attribute(*driver, device, kMostSharedOptIn)));
    set(env, card, "mapsMemory", boolean(env, attribute(*driver, device, kVirtualMemory) != 0));
    napi_set_element(env, cards, static_cast<uint32_t>(i), card);
  }
  return result;
}

napi_value open(const Call& call) {
  const char* problem = "";
  const Driver* driver = openDriver(nullptr, problem);
  if (!driver) throw Failure{0, problem};
  Device device = 0;
  if (const Result result = driver->device(&device, static_cast<int>(call.number(0)))) raise(*driver, result, "finding the card");
  auto* shared = new Shared(std::make_shared<Card>(*driver, device));
  napi_value result;
  napi_create_external(
      call.env, shared, [](napi_env, void* data, void*) { delete static_cast<Shared*>(data); }, nullptr, &result);
  return result;
}

napi_value close(const Call& call) {
  void* data = nullptr;
  napi_get_value_external(call.env, call.values[0], &data);
  if (data) static_cast<Shared*>(data)->reset();
  return nullptr;
}

napi_value reserve(const Call& call) { return number(call.env, static_cast<double>(call.card()->reserve(call.size(1)))); }

napi_value grow(const Call& call) { return boolean(call.env, call.card()->grow(call.address(1), call.size(2))); }

napi_value granularity(const Call& call) { return number(call.env, static_cast<double>(call.card()->granularity)); }

napi_value loadModule(const Call& call) {
  size_t length;
  const unsigned char* bytes = call.bytes(1, length);
  const std::string image(reinterpret_cast<const char*>(bytes), length);
  return number(call.env, static_cast<double>(call.card()->loadModule(image.c_str())));
}

napi_value findFunction(const Call& call) {
  const auto index = call.card()->findFunction(call.size(1), call.text(2).c_str(), static_cast<unsigned>(call.number(3)),
                                               static_cast<unsigned>(call.number(4)));
  return number(call.env, static_cast<double>(index));
}

napi_value submit(const Call& call) {
  size_t length;
  const unsigned char* bytes = call.bytes(1, length);
  const size_t words = call.size(2);
  // A typed array's length is counted in its elements, here words.
  if (words > length) throw Failure{0, "launches beyond their buffer"};
  call.card()->replays().submit(reinterpret_cast<const uint32_t*>(bytes), words, static_cast<uint64_t>(call.number(3)));
  return nullptr;
}

napi_value write(const Call& call) {
  size_t length;
  const unsigned char* data = call.bytes(2, length);
  call.card()->write(call.address(1), data, length);
  return nullptr;
}

/** A read under way and the promise that waits for it. */
struct Reading {
  Shared card;
  PendingRead read;
  napi_deferred deferred;
  napi_async_work work;
  Failure failure{0, ""};
};

napi_value arrayOf(napi_env env, size_t bytes, void*& data) {
  napi_value buffer, array;
  if (napi_create_arraybuffer(env, bytes, &data, &buffer) != napi_ok)
    throw Failure{0, "no memory for what was read from the card"};
  napi_create_typedarray(env, napi_uint8_array, bytes, buffer, 0, &array);
  return array;
}

void awaitRead(napi_env, void* data) {
  auto& reading = *static_cast<Reading*>(data);
  try {
    reading.card->use();
    reading.card->check(reading.card->driver.waitForEvent(reading.read.event), "waiting for the card");
  } catch (const Failure& failure) {
    reading.failure = failure;
  }
}

void settle(napi_env env, Reading& reading) {
  try {
    if (!reading.failure.text.empty()) throw reading.failure;
    void* into = nullptr;
    const napi_value array = arrayOf(env, reading.read.bytes, into);
    reading.card->finishRead(reading.read, into);
    napi_resolve_deferred(env, reading.deferred, array);
  } catch (const Failure& failure) {
    napi_reject_deferred(env, reading.deferred, errorOf(env, failure));
  }
}

void readIsDone(napi_env env, napi_status, void* data) {
  const std::unique_ptr<Reading> reading(static_cast<Reading*>(data));
  napi_delete_async_work(env, reading->work);
  settle(env, *reading);
}

/** read(card, address, bytes): a promise of the bytes as they are when everything before has run. */
napi_value read(const Call& call) {
  const Shared card = call.card();
  const size_t bytes = call.size(2);
  napi_value promise;
  if (bytes == 0 || bytes > kSmallRead) {
    void* into = nullptr;
    const napi_value array = arrayOf(call.env, bytes, into);
    if (bytes) card->readNow(call.address(1), into, bytes);
    napi_deferred deferred;
    napi_create_promise(call.env, &deferred, &promise);
    napi_resolve_deferred(call.env, deferred, array);
    return promise;
  }
  auto reading = std::make_unique<Reading>();
  reading->card = card;
  reading->read = card->beginRead(call.address(1), bytes);
  napi_create_promise(call.env, &reading->deferred, &promise);
  if (card->driver.queryEvent(reading->read.event) == 0) {
    settle(call.env, *reading);
    return promise;
  }
  napi_create_async_work(call.env, nullptr, text(call.env, "lowrank read"), awaitRead, readIsDone, reading.get(), &reading->work);
  napi_queue_async_work(call.env, reading->work);
  reading.release();
  return promise;
}

napi_value wait(const Call& call) {
  call.card()->wait();
  return nullptr;
}

napi_value status(const Call& call) {
  const Shared card = call.card();
  const napi_env env = call.env;
  size_t freeBytes = 0, totalBytes = 0;
  card->check(card->driver.memoryInfo(&freeBytes, &totalBytes), "asking for the card's memory");
  napi_value result;
  napi_create_object(env, &result);
  const Replays& replays = card->replays();
  set(env, result, "freeBytes", number(env, static_cast<double>(freeBytes)));
  set(env, result, "totalBytes", number(env, static_cast<double>(totalBytes)));
  set(env, result, "launched", number(env, static_cast<double>(replays.launched)));
  set(env, result, "replayed", number(env, static_cast<double>(replays.replayed)));
  set(env, result, "changed", number(env, static_cast<double>(replays.changed)));
  set(env, result, "graphs", number(env, static_cast<double>(replays.graphs)));
  return result;
}

template <napi_value (*body)(const Call&)>
void define(napi_env env, napi_value object, const char* name) {
  napi_value function;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, guarded<body>, nullptr, &function);
  set(env, object, name, function);
}

}  // namespace

napi_value makeFace(napi_env env) {
  napi_value face;
  napi_create_object(env, &face);
  define<probe>(env, face, "probe");
  define<open>(env, face, "open");
  define<close>(env, face, "close");
  define<reserve>(env, face, "reserve");
  define<grow>(env, face, "grow");
  define<granularity>(env, face, "granularity");
  define<loadModule>(env, face, "loadModule");
  define<findFunction>(env, face, "findFunction");
  define<submit>(env, face, "submit");
  define<write>(env, face, "write");
  define<read>(env, face, "read");
  define<wait>(env, face, "wait");
  define<status>(env, face, "status");
  return face;
}

}  // namespace lowrank::cuda
