// What JavaScript sees of the CUDA driver: addon.cc adds it to the addon's exports. Typed in src/backend/cuda/addon.ts.
#pragma once
#include <node_api.h>

namespace lowrank::cuda {

/** An object of functions. */
napi_value makeFace(napi_env env);

}  // namespace lowrank::cuda
