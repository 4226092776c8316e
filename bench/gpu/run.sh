#!/usr/bin/env bash
# One call on a machine that has a card, python3 and nothing else of this project: unpack, check, measure, tabulate. Everything
# lands in $OUT: result.jsonl, table.md, log. Each part has a limit of its own, and none starts that could outlast the deadline
# (8 minutes). Made by pack.mjs; nothing is fetched here.
#   OUT=DIR bash .gpu/run.sh            CPU=1: the emulator in place of a card, small shapes, for trying the script itself
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
OUT=${OUT:-/tmp/lowrank-gpu-out} W=${W:-/tmp/lowrank-gpu} DEADLINE=${DEADLINE:-470}
mkdir -p "$W" "$OUT"
log=$OUT/log result=$OUT/result.jsonl
: >"$result"
: >"$log"
python3 - "$here/bundle.tar.xz" "$W" <<'PY'
import sys, tarfile
tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="fully_trusted")
PY
# A bare machine lacks the Vulkan loader; the driver brings the rest.
if [ -z "$CPU" ] && ! ldconfig -p | grep -q libvulkan.so.1; then
  for package in "$W"/debs/*.deb; do [ -e "$package" ] && dpkg -x "$package" /; done
  ldconfig
fi
for icd in /usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json /etc/vulkan/icd.d/nvidia_icd.json /usr/share/vulkan/icd.d/nvidia_icd.json; do
  [ -e "$icd" ] && export VK_DRIVER_FILES=${VK_DRIVER_FILES:-$icd}
done
export LOWRANK_CACHE=$W/cache PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 PYTHONPATH=$W/site
node=$W/node L=$W/lowrank G=$W/lowrank/bench/gpu
cd "$L" || exit 1
lowrank() { "$node" "$L/dist/cli/main.js" "$@"; }
export -f lowrank
export node L

# part SECONDS NAME COMMAND...: its JSON lines go to the result, all that it prints to the log.
part() {
  local limit=$1 name=$2 start=$SECONDS left=$((DEADLINE - SECONDS))
  shift 2
  if [ "$left" -lt 15 ]; then
    echo "{\"part\":\"$name\",\"skipped\":true}" >>"$result"
    return
  fi
  [ "$limit" -le "$left" ] || limit=$left
  echo "== $name: $*" >>"$log"
  timeout -k 5 "$limit" "$@" 2>>"$log" | tee -a "$log" | grep '^{' >>"$result"
  echo "{\"part\":\"$name\",\"code\":${PIPESTATUS[0]},\"seconds\":$((SECONDS - start))}" >>"$result"
}
steps() { # SECONDS NAME BACKEND CONFIG BATCH LENGTH CHECKPOINTING STEPS
  part "$1" "$2" "$node" "$L/dist/cli/main.js" bench --model "$4" --method qlora --rank 8 --backend "$3" --batch-size "$5" \
    --sequence-length "$6" --gradient-checkpointing "$7" --warmup 3 --steps "$8" --json
}

BIG=$G/configs/llama2-7b.json SMALL=$G/configs/tinyllama-1b.json HUGE=$G/configs/llama-65b.json
BIGL=1024 SMALLB=4 SMALLL=512 N=10 MATRIX_SHAPES=4096x4096,11008x4096,4096x11008 TOKENS=1024
SAN=$W/site/nvidia/cu13/compute-sanitizer/compute-sanitizer
if [ -n "$CPU" ]; then
  export LOWRANK_CUDA_LIBRARY=$L/native/build/cuda/libcuda-emulator.so
  BIG=$G/configs/small.json SMALL=$BIG HUGE=$BIG BIGL=32 SMALLB=2 SMALLL=16 N=2 MATRIX_SHAPES=128x64 TOKENS=32
fi

part 20 devices "$node" "$L/dist/cli/main.js" devices --json
part 60 conform-cuda-bf16 "$node" "$G/conform.mjs" --backend cuda --precision bf16 ${CPU:+--only ^(fill|cast|adamw|rope)}
part 60 conform-cuda-fp32 "$node" "$G/conform.mjs" --backend cuda --precision fp32 ${CPU:+--only ^(fill|cast|adamw|rope)}
steps 60 steps-7b cuda "$BIG" 1 $BIGL off $N
part 60 products-cuda "$node" "$L/bench/cuda-products.mjs" --json-lines --tokens $TOKENS --shapes $MATRIX_SHAPES --seconds 0.1
if [ -z "$CPU" ]; then
  part 40 ceilings python3 "$G/ceilings.py"
  part 70 peft-7b python3 "$G/peft_steps.py" --config "$BIG" --length $BIGL --steps $N
fi
steps 60 steps-7b-recomputed cuda "$BIG" 1 $BIGL on $N
[ -n "$CPU" ] || part 60 peft-7b-recomputed python3 "$G/peft_steps.py" --config "$BIG" --length $BIGL --steps 5 --checkpointing on
steps 40 steps-tinyllama cuda "$SMALL" $SMALLB $SMALLL off $N
[ -n "$CPU" ] || part 50 peft-tinyllama python3 "$G/peft_steps.py" --config "$SMALL" --batch $SMALLB --length $SMALLL --steps $N
part 50 decode-7b "$node" "$G/decode.mjs" --config "$BIG" --backend cuda ${CPU:+--short 2 --long 4}
[ -n "$CPU" ] || part 60 quickstart "$node" "$G/quickstart.mjs" --backend cuda
for tool in memcheck racecheck; do
  [ -z "$CPU" ] && [ -x "$SAN" ] && part 70 "sanitizer-$tool" bash -c \
    "'$SAN' --tool $tool --error-exitcode 9 --print-limit 5 '$node' '$G/conform.mjs' --backend cuda --most-ms 15; code=\$?; echo \"{\\\"sanitizer\\\":\\\"$tool\\\",\\\"code\\\":\$code}\"; exit \$code"
done
for tier in matrix f16 f32; do
  [ -n "$CPU" ] || part 40 "conform-webgpu-$tier" "$node" "$G/conform.mjs" --backend webgpu --tier $tier --precision "$([ $tier = f32 ] && echo fp32 || echo fp16)"
done
[ -n "$CPU" ] || steps 40 steps-tinyllama-webgpu webgpu "$SMALL" $SMALLB $SMALLL off 4
[ -n "$CPU" ] || steps 60 steps-65b cuda "$HUGE" 1 512 on 2
part 10 table "$node" "$G/table.mjs" "$result" "$OUT/table.md"
cat "$OUT/table.md"
