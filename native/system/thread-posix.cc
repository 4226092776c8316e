// thread.h by pthreads.
#include "system/thread.h"

#include <pthread.h>

#include <memory>
#include <utility>

namespace lowrank {

bool startThread(std::function<void()> body) {
  auto owned = std::make_unique<std::function<void()>>(std::move(body));
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  const auto run = [](void* data) -> void* {
    const std::unique_ptr<std::function<void()>> job(static_cast<std::function<void()>*>(data));
    (*job)();
    return nullptr;
  };
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, run, owned.get()) == 0;
  pthread_attr_destroy(&attributes);
  if (started) owned.release();
  return started;
}

}  // namespace lowrank
