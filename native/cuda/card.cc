// Context, memory, modules and copies of one card (card.h).
#include "card.h"

#include <cstring>

#include "commands.h"

namespace lowrank::cuda {
namespace {

constexpr size_t kStagingBytes = 16 << 20, kSmallWrite = 1 << 20, kLogBytes = 8192;
constexpr int kErrorLog = 5, kErrorLogBytes = 6;  // CU_JIT_ERROR_LOG_BUFFER and its size

AllocationProperties onDevice(Device device) {
  AllocationProperties properties{};
  properties.type = 1;
  properties.location = {1, device};
  return properties;
}

}  // namespace

void raise(const Driver& driver, Result code, const std::string& what) {
  const char *name = nullptr, *text = nullptr;
  driver.errorName(code, &name);
  driver.errorText(code, &text);
  throw Failure{code, what + ": " + (name ? name : std::to_string(code)) + (text ? std::string(" (") + text + ")" : "")};
}

PinnedMemory::PinnedMemory(const Driver& driver, size_t bytes) : driver_(driver) {
  const Result result = driver.allocateHost(&memory_, bytes, 0);
  if (result) raise(driver, result, "memory of this machine for copies to and from the card");
}

Card::Card(const Driver& d, Device dev) : driver(d), device(dev) {
  check(driver.retainContext(&context_, device), "opening the card");
  use();
  const AllocationProperties properties = onDevice(device);
  check(driver.granularity(&granularity, &properties, 0), "asking for the card's page size");
  check(driver.createStream(&stream, kStreamNonBlocking), "making a stream");
  staging_ = std::make_unique<PinnedMemory>(driver, kStagingBytes);
  replays_ = std::make_unique<Replays>(*this);
}

Card::~Card() {
  // Whatever fails here fails because the card did, and nothing is left to do about it.
  driver.setCurrent(context_);
  if (stream) driver.waitForStream(stream);
  replays_.reset();
  for (const Handle module : modules_) driver.unloadModule(module);
  for (const Upload& upload : uploads_) driver.destroyEvent(upload.event);
  for (const Handle event : spareEvents_) driver.destroyEvent(event);
  staging_.reset();
  spareReads_.clear();
  for (const auto& [address, range] : ranges_) {
    Address at = address;
    for (const auto& [handle, bytes] : range.parts) {
      driver.unmap(at, bytes);
      driver.releaseMemory(handle);
      at += bytes;
    }
    driver.unreserve(address, range.reserved);
  }
  if (stream) driver.destroyStream(stream);
  driver.releaseContext(device);
}

void Card::use() const { check(driver.setCurrent(context_), "turning to the card"); }

Address Card::reserve(size_t bytes) {
  const size_t whole = (bytes + granularity - 1) / granularity * granularity;
  Address address = 0;
  check(driver.reserve(&address, whole, 0, 0, 0), "reserving addresses");
  ranges_[address] = Range{whole, 0, {}};
  return address;
}

bool Card::grow(Address address, size_t bytes) {
  Range& range = ranges_.at(address);
  if (bytes == 0 || bytes % granularity || bytes > range.reserved - range.mapped) return false;
  const AllocationProperties properties = onDevice(device);
  MemoryHandle handle = 0;
  const Result made = driver.createMemory(&handle, bytes, &properties, 0);
  if (made == kOutOfMemory) return false;
  check(made, "taking memory of the card");
  const Address at = address + range.mapped;
  Result result = driver.map(at, bytes, 0, handle, 0);
  if (!result) {
    const AccessDescription access{{1, device}, 3};
    result = driver.setAccess(at, bytes, &access, 1);
    if (result) driver.unmap(at, bytes);
  }
  if (result) {
    driver.releaseMemory(handle);
    if (result == kOutOfMemory) return false;
    raise(driver, result, "mapping memory of the card");
  }
  range.parts.emplace_back(handle, bytes);
  range.mapped += bytes;
  return true;
}

size_t Card::loadModule(const char* text) {
  std::vector<char> log(kLogBytes, 0);
  int options[] = {kErrorLog, kErrorLogBytes};
  void* values[] = {log.data(), reinterpret_cast<void*>(static_cast<uintptr_t>(kLogBytes))};
  Handle module = nullptr;
  const Result result = driver.loadModule(&module, text, 2, options, values);
  log.back() = 0;
  if (result) raise(driver, result, std::string("compiling kernels for this card") + (log[0] ? ", " : "") + log.data());
  modules_.push_back(module);
  return modules_.size() - 1;
}

size_t Card::findFunction(size_t module, const char* name, unsigned threads, unsigned sharedBytes) {
  Handle handle = nullptr;
  check(driver.findFunction(&handle, modules_.at(module), name), name);
  // Up to 48 KB need no permission.
  if (sharedBytes > 48 << 10)
    check(driver.setFunctionAttribute(handle, kFunctionMostDynamicShared, static_cast<int>(sharedBytes)), name);
  functions_.push_back({handle, name, threads, sharedBytes});
  return functions_.size() - 1;
}

Handle Card::event() {
  Handle event = nullptr;
  if (!spareEvents_.empty()) {
    event = spareEvents_.back();
    spareEvents_.pop_back();
  } else {
    check(driver.createEvent(&event, kEventWithoutTiming), "making an event");
  }
  return event;
}

/** Where `bytes` may be written in the ring. At its end everything that was uploaded from it is waited for. */
size_t Card::stagingRoom(size_t bytes) {
  if (stagingHead_ + bytes <= kStagingBytes) return stagingHead_;
  for (const Upload& upload : uploads_) {
    check(driver.waitForEvent(upload.event), "waiting for a copy");
    spareEvents_.push_back(upload.event);
  }
  uploads_.clear();
  return 0;
}

void Card::write(Address to, const void* data, size_t bytes) {
  if (bytes == 0) return;
  if (bytes > kSmallWrite) {
    check(driver.copyToDevice(to, data, bytes, stream), "copying to the card");
    return wait();
  }
  const size_t rounded = (bytes + 255) / 256 * 256;
  const size_t at = stagingRoom(rounded);
  std::memcpy(staging_->data() + at, data, bytes);
  check(driver.copyToDevice(to, staging_->data() + at, bytes, stream), "copying to the card");
  const Handle done = event();
  check(driver.recordEvent(done, stream), "copying to the card");
  uploads_.push_back({done});
  stagingHead_ = at + rounded;
}

PendingRead Card::beginRead(Address from, size_t bytes) {
  std::unique_ptr<PinnedMemory> memory;
  if (!spareReads_.empty()) {
    memory = std::move(spareReads_.back());
    spareReads_.pop_back();
  } else {
    memory = std::make_unique<PinnedMemory>(driver, kSmallRead);
  }
  check(driver.copyToHost(memory->data(), from, bytes, stream), "copying from the card");
  const Handle done = event();
  check(driver.recordEvent(done, stream), "copying from the card");
  return {std::move(memory), bytes, done};
}

void Card::finishRead(PendingRead& read, void* into) {
  if (into) std::memcpy(into, read.from->data(), read.bytes);
  spareReads_.push_back(std::move(read.from));
  spareEvents_.push_back(read.event);
}

void Card::readNow(Address from, void* into, size_t bytes) {
  check(driver.copyToHost(into, from, bytes, stream), "copying from the card");
  wait();
}

}  // namespace lowrank::cuda
