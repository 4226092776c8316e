// MPI's functions for JavaScript, typed in src/distributed/mpi-addon.ts.
#pragma once
#include <node_api.h>

namespace lowrank::mpi {

/** Adds them to the addon's exports. */
void defineCalls(napi_env env, napi_value exports);

}  // namespace lowrank::mpi
