// Decodes and runs kernel calls. Ids, names and the order of arguments come from kernels.def; the products' calls, which
// carry lists of parts, are read by hand (products.h). Nothing is checked here beyond id and count: shapes were checked
// where the call was written (src/backend/cpu/).
#include "call.h"

#include <new>
#include <tuple>

#include "products.h"

namespace lowrank {

#define LOWRANK_STRUCT(name)   \
  template <>                  \
  name Reader::get<name>() {   \
    name args{};
#define LOWRANK_FIELD(type, name) args.name = get<type>();
#define LOWRANK_END(name) \
  return args;            \
  }
#include "kernels.def"

namespace {

/** Calls `kernel` with the arguments that its own type asks for; braces are evaluated from left to right. */
template <typename... Arguments>
bool invoke(void (*kernel)(Arguments...), Reader& in) {
  const std::tuple<std::decay_t<Arguments>...> arguments{in.get<std::decay_t<Arguments>>()...};
  if (!in.spent()) return false;
  std::apply(kernel, arguments);
  return true;
}

template <typename Arguments>
bool invokePaired(void (*plain)(const Arguments&), void (*paired)(const Arguments&, const KernelTable&),
                  const KernelTable& table, Reader& in) {
  const auto precision = in.get<Precision>();
  const auto arguments = in.get<Arguments>();
  if (!in.spent()) return false;
  if (precision == Precision::BF16 && paired) {
    paired(arguments, table);
  } else {
    plain(arguments);
  }
  return true;
}

enum Id {
  kLinear,
  kLinearBackward,
  kGroupedLinear,
  kGroupedLinearBackward,
#define LOWRANK_KERNEL(name, ...) k_##name,
#include "kernels.def"
};

/** A macro's name as text: "const float* x, int64_t n". */
#define LOWRANK_TEXT(...) #__VA_ARGS__

const Signature kKernels[] = {
    {"linear", nullptr},
    {"linearBackward", nullptr},
    {"groupedLinear", nullptr},
    {"groupedLinearBackward", nullptr},
#define LOWRANK_KERNEL(name, ...) {#name, LOWRANK_TEXT(__VA_ARGS__)},
#define LOWRANK_PAIRED_KERNEL(name, type) {#name, "Precision precision, const " #type "& a"},
#include "kernels.def"
    {nullptr, nullptr},
};

const Signature kTypes[] = {
#define LOWRANK_CHOICE(name, ...) {#name, "enum " LOWRANK_TEXT(__VA_ARGS__)},
#define LOWRANK_STRUCT(name) {#name, ""
#define LOWRANK_FIELD(type, name) #type " " #name ", "
#define LOWRANK_END(name) },
#include "kernels.def"
    {nullptr, nullptr},
};

/** False where the call is none of these. */
bool call(const Isa& isa, int id, Reader& in) {
  const Bf16AttentionTable none{};
  [[maybe_unused]] const Bf16AttentionTable& paired = isa.bf16Attention ? *isa.bf16Attention : none;
  switch (id) {
    case kLinear:
      return callLinear(*isa.linear, in);
    case kLinearBackward:
      return callLinearBackward(*isa.linear, in);
    case kGroupedLinear:
      return callGroupedLinear(*isa.linear, in);
    case kGroupedLinearBackward:
      return callGroupedLinearBackward(*isa.linear, in);
#define LOWRANK_KERNEL(name, ...) \
  case k_##name:                  \
    return invoke(isa.kernels->name, in);
#define LOWRANK_PAIRED_KERNEL(name, type) \
  case k_##name:                          \
    return invokePaired<type>(isa.kernels->name, paired.name, *isa.kernels, in);
#include "kernels.def"
    default:
      return false;
  }
}

const char* nameOf(int id) {
  const int count = static_cast<int>(sizeof kKernels / sizeof kKernels[0]) - 1;
  return id >= 0 && id < count ? kKernels[id].name : "";
}

}  // namespace

const Signature* kernelSignatures() { return kKernels; }
const Signature* typeSignatures() { return kTypes; }

Outcome runCalls(const Isa& isa, const double* calls, int64_t length, const char*& kernel) {
  constexpr int64_t kHead = 2;
  for (int64_t at = 0; at < length;) {
    const int id = static_cast<int>(calls[at]);
    const int64_t end = at + kHead + static_cast<int64_t>(calls[at + 1]);
    kernel = nameOf(id);
    if (end > length) return Outcome::Invalid;
    Reader in(calls + at + kHead, calls + end);
    try {
      if (!call(isa, id, in)) return Outcome::Invalid;
    } catch (const std::bad_alloc&) {
      return Outcome::OutOfMemory;
    }
    at = end;
  }
  return Outcome::Done;
}

}  // namespace lowrank
