// Reads the arguments of a kernel call, one after the other, as the type that is asked for. Addresses and sizes are below
// 2^53, so a double holds them exactly. Structs of arguments are read in call.cc.
#pragma once
#include <array>
#include <cstdint>
#include <type_traits>

namespace lowrank {

class Reader {
 public:
  Reader(const double* at, const double* end) : at_(at), end_(end) {}

  /** Whether exactly the call's arguments were read. */
  bool spent() const { return at_ == end_; }

  /** The next argument; 0 behind the last. */
  template <typename T>
  T get() {
    if constexpr (std::is_pointer_v<T>) {
      return reinterpret_cast<T>(static_cast<uintptr_t>(next()));
    } else if constexpr (std::is_enum_v<T>) {
      return static_cast<T>(static_cast<int>(next()));
    } else if constexpr (std::is_same_v<T, bool>) {
      return next() != 0;
    } else if constexpr (std::is_arithmetic_v<T>) {
      return static_cast<T>(next());
    } else {
      T values{};
      for (auto& value : values) value = get<std::decay_t<decltype(value)>>();
      return values;
    }
  }

 private:
  double next() {
    if (at_ < end_) return *at_++;
    at_ = end_ + 1;  // never spent again
    return 0;
  }

  const double* at_;
  const double* end_;
};

}  // namespace lowrank
