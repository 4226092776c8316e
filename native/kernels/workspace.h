// Working memory of one kernel call, freed with the scope: allocated by the calling thread before a parallel job,
// since an exception in a pool thread would end the process. Not here: tensors (memory.h).
#pragma once
#include <new>

#include "../memory.h"
#include "../simd.h"

namespace lowrank::LOWRANK_ISA_NAMESPACE {
namespace {

template <class Element>
class Workspace {
 public:
  /** Contents undefined; 64-byte aligned. Throws std::bad_alloc. */
  explicit Workspace(int64_t count) : bytes_(static_cast<size_t>(count) * sizeof(Element)) {
    data_ = static_cast<Element*>(allocateBytes(bytes_));
    if (!data_) throw std::bad_alloc();
  }
  ~Workspace() { freeBytes(data_, bytes_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  Element* get() const { return data_; }
  Element& operator[](int64_t i) const { return data_[i]; }

 private:
  size_t bytes_;
  Element* data_;
};

}  // namespace
}  // namespace lowrank::LOWRANK_ISA_NAMESPACE
