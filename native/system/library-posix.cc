// library.h by dlopen.
#include "system/library.h"

#include <dlfcn.h>

namespace lowrank {

void* openLibrary(const char* name, Scope scope) {
  return dlopen(name, scope == Scope::Own ? RTLD_NOW | RTLD_LOCAL : RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
}

const char* openProblem() {
  const char* problem = dlerror();
  return problem ? problem : "";
}

void* findSymbol(void* library, const char* name) { return dlsym(library, name); }

void keepLoaded(void (*function)()) {
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(function), &self)) dlopen(self.dli_fname, RTLD_NOW | RTLD_NODELETE);
}

}  // namespace lowrank
