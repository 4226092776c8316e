// thread.h by CreateThread.
#include "system/thread.h"

#include <windows.h>

#include <memory>
#include <utility>

namespace lowrank {
namespace {

DWORD WINAPI run(void* data) {
  const std::unique_ptr<std::function<void()>> job(static_cast<std::function<void()>*>(data));
  (*job)();
  return 0;
}

}  // namespace

bool startThread(std::function<void()> body) {
  auto owned = std::make_unique<std::function<void()>>(std::move(body));
  const HANDLE thread =
      CreateThread(nullptr, kStackBytes, run, owned.get(), STACK_SIZE_PARAM_IS_A_RESERVATION, nullptr);
  if (!thread) return false;
  owned.release();
  CloseHandle(thread);
  return true;
}

}  // namespace lowrank
