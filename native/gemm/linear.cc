// The table of one instruction set: what dispatch.cc hands out.
#include <chrono>

#include "engines.h"

namespace lowrank {
namespace LOWRANK_ISA_NAMESPACE {
namespace {

template <typename Engine>
double measure(double seconds) {
  using Clock = std::chrono::steady_clock;
  Engine::spin(100000);
  const auto start = Clock::now();
  double best = 0, elapsed = 0;
  auto last = start;
  do {
    const double operations = Engine::spin(20000);
    const auto now = Clock::now();
    const double rate = operations / std::chrono::duration<double>(now - last).count() / 1e9;
    if (rate > best) best = rate;
    last = now;
    elapsed = std::chrono::duration<double>(now - start).count();
  } while (elapsed < seconds);
  return best;
}

double peak(Precision precision, double seconds) {
  return precision == Precision::BF16 ? measure<HalfEngine>(seconds) : measure<PlainEngine>(seconds);
}

const LinearTable table = {LOWRANK_QUOTE(LOWRANK_ISA_SUFFIX), bf16IsFaster, linearForward, linearBackward,
                           groupedForward, groupedBackward, peak};

}  // namespace
}  // namespace LOWRANK_ISA_NAMESPACE

const LinearTable* LOWRANK_PER_ISA(linearTable)() { return &LOWRANK_ISA_NAMESPACE::table; }

}  // namespace lowrank
