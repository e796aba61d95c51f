#!/usr/bin/env bash
# Everything that needs a GPU, in one command: tests, parity of compiled bundles, speed, as JSON.
#
#   perf/gpu.sh CHECKPOINT [--output DIR] [--work DIR] [--shape SHAPE]... [--backend BACKEND]...
#               [--device cuda|cpu] [--python PATH] [--seconds-per-step S]
#
# The LLMs have random weights of the shapes llama-3.2-3b and smollm2-135m, or of those named; the
# CHECKPOINT gives tokenizer, catalogue and histories. The backends are onnxruntime-cuda and
# tensorrt. Each step leaves DIR/STEP.json, DIR is perf/gpu-results; one that is there already is not run
# again, so an interrupted run goes on. Checkpoints and bundles, up to 30 GB, are in --work, by
# default DIR/work. A failing step is named at the end, exit code 1. --device cpu tries the script
# itself, with a tiny shape and onnxruntime, in a few minutes.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

usage() { { echo usage:; sed -n "4,5s/^# */  /p" perf/gpu.sh; } >&2; echo "error: $1" >&2; exit 2; }

checkpoint='' output=perf/gpu-results work='' device=cuda python=.venv/bin/python seconds=''
shapes=() backends=()
while (($#)); do
  case $1 in
    --output | --work | --shape | --backend | --device | --python | --seconds-per-step)
      (($# > 1)) || usage "$1 needs a value"
      case $1 in
        --output) output=$2 ;;
        --work) work=$2 ;;
        --shape) shapes+=("$2") ;;
        --backend) backends+=("$2") ;;
        --device) device=$2 ;;
        --python) python=$2 ;;
        --seconds-per-step) seconds=$2 ;;
      esac
      shift 2
      ;;
    -*) usage "unknown option $1" ;;
    *) checkpoint=$1 && shift ;;
  esac
done
[[ $checkpoint ]] || usage 'name a CHECKPOINT'
work=${work:-$output/work}
case $device in
  cuda)
    ((${#shapes[@]})) || shapes=(llama-3.2-3b smollm2-135m)
    ((${#backends[@]})) || backends=(onnxruntime-cuda tensorrt)
    sizes=(--users 1 2 4 8 16 32 64 --tokens 350 450 --rounds 20 --warm-up 10)
    pytorch=(--device cuda --precision bf16)
    dtypes=(fp16 bf16 fp32) topk=(--device cuda --items 1000000 --exclusions 1000)
    load=(--duration 10 --warm-up 3 --processes 8 --objective-ms 100)
    if ! nvidia-smi > /dev/null 2>&1; then
      echo 'error: nvidia-smi finds no GPU; run this on a machine with one and its driver' >&2
      exit 1
    fi
    ;;
  cpu)
    ((${#shapes[@]})) || shapes=(tiny)
    ((${#backends[@]})) || backends=(onnxruntime)
    sizes=(--users 1 2 --tokens 35 45 --rounds 2 --warm-up 1)
    pytorch=(--device cpu --precision fp32)
    dtypes=(fp32) topk=(--device cpu --items 20000)
    load=(--duration 2 --warm-up 1 --objective-ms 2000)
    ;;
  *) usage "--device is cuda or cpu, not $device" ;;
esac

mkdir -p "$output" "$work" || exit
failed=() pid=''
trap '[[ -z $pid ]] || kill "$pid" 2> /dev/null' EXIT

# attempt STEP SECONDS COMMAND...: unless its JSON is there, run it; standard output to STEP.out.
attempt() {
  local step=$1 limit=${seconds:-$2} code=0
  shift 2
  [[ ! -s $output/$step.json ]] || return 1
  echo "== $step: $*"
  started=$SECONDS
  timeout --kill-after=30 "$limit" "$@" > "$output/$step.out" || code=$?
  ((code == 0)) && return
  case $code in
    124 | 137) failed+=("$step: not done within $limit s") ;;
    *) failed+=("$step: exit code $code") ;;
  esac
  echo "== FAILED ${failed[-1]}" >&2
  return 1
}

# The command prints JSON.
measure() { attempt "$@" && mv "$output/$1.out" "$output/$1.json"; }

# The command says by its exit code whether all is well.
verify() { attempt "$@" && echo "{\"seconds\": $((SECONDS - started))}" > "$output/$1.json"; }

are_there() {
  local step
  for step in "$@"; do [[ -s $output/$step.json ]] || return 1; done
}

# serve BUNDLE CONFIG LOG: leaves the server's `pid` and `address`.
serve() {
  : > "$work/ready"
  "$python" -m engine serve "$1" --config "$2" --listen 127.0.0.1:0 > "$work/ready" 2> "$3" &
  pid=$!
  for ((second = 0; second < 300; second++)); do
    read -r _ address _ < "$work/ready" && return
    kill -0 "$pid" 2> /dev/null || return 1
    sleep 1
  done
  return 1
}

# The highest rate in an open loop, of a server whose micro-batches suit a GPU.
find_rate() {
  local name=$1 bundle=$2 rate=$3 batch_tokens=$4
  are_there "$name" && return
  printf '[batcher]\nmax_batch_tokens = %d\nmax_batch_size = 64\n' "$batch_tokens" > "$work/server.toml"
  if serve "$bundle" "$work/server.toml" "$output/$name-server.log"; then
    attempt "$name" 590 "$python" -m perf load "$address" --bundle "$bundle" --rate "$rate" --search \
      --lengths 10-20=1 "${load[@]}" --json "$output/$name.json" --report "$output/$name.html"
    cat "$output/$name.out"
  else
    failed+=("$name: the server did not start; see $output/$name-server.log")
  fi
  kill "$pid" 2> /dev/null
  wait "$pid" 2> /dev/null
  pid=''
}

# The LLM of a shape in PyTorch, and in the engine on each backend.
measure_shape() {
  local shape=$1 random=$work/$1/checkpoint items=() backend
  case $shape in
    # The build compares the graph with PyTorch on the CPU, where 3 G weights and a whole catalogue take long.
    llama-3.2-3b | tiny) items=(--items 64) ;;
  esac
  is_shape_measured "$shape" && return
  [[ -f $random/config.json ]] || rm -f "$output/$shape-checkpoint.json"
  measure "$shape-checkpoint" 590 "$python" -m perf.gpu random-checkpoint --shape "$shape" \
    --like "$checkpoint" --output "$work/$shape" --histories 8 "${items[@]}"
  [[ -f $random/config.json ]] || return
  measure "$shape-pytorch" 590 "$python" -m perf.gpu pytorch "$random" "${pytorch[@]}" "${sizes[@]}"
  measure "$shape-pytorch-compiled" 590 "$python" -m perf.gpu pytorch "$random" "${pytorch[@]}" \
    "${sizes[@]}" --compile
  for backend in "${backends[@]}"; do
    measure_backend "$shape" "$backend"
  done
}

is_shape_measured() {
  local backend
  are_there "$1-pytorch" "$1-pytorch-compiled" || return
  for backend in "${backends[@]}"; do is_backend_measured "$1-$backend" || return; done
}

is_backend_measured() {
  are_there "$1-check" "$1-encoder" "$1-load" && { [[ $1 != *-tensorrt ]] || are_there "$1-plan"; }
}

measure_backend() {
  local shape=$1 name=$1-$2 bundle=$work/$1/$2 rate=64 batch_tokens=2048 build=()
  case $2 in
    # A CUDA graph pads to its own size, so these are close to --tokens.
    tensorrt | onnxruntime-cuda)
      build=(--precision fp16 --size 64x352 --size 64x456 --size 16x1024)
      ;;
  esac
  case $shape in
    llama-3.2-3b) rate=64 batch_tokens=4096 ;;
    smollm2-135m) rate=256 batch_tokens=16384 ;;
  esac
  is_backend_measured "$name" && return
  [[ -f $bundle/manifest.json ]] || rm -f "$output/$name-build.json"
  verify "$name-build" 1800 "$python" export/build_engine.py --backend "$2" \
    --checkpoint "$work/$shape/checkpoint" --output "$bundle" "${build[@]}"
  [[ -f $bundle/manifest.json ]] || return
  if [[ $2 = tensorrt ]]; then
    measure "$name-plan" 590 "$python" -m perf.gpu plan-validity "$bundle"
  fi
  verify "$name-check" 590 bash -c "$check" "$python" "$bundle" "$2" "$capability"
  measure "$name-encoder" 590 "$python" -m perf encoder "$bundle" "${sizes[@]}"
  find_rate "$name-load" "$bundle" "$rate" "$batch_tokens"
}

# A TensorRT plan for other cards is compiled for this one.
check='"$0" -m engine check "$1" || { [[ $2 = tensorrt ]] &&
  "$0" -m engine rebuild "$1" --target "$3" && "$0" -m engine check "$1"; }'
capability=none
if [[ $device = cuda ]]; then
  nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total,clocks.max.sm,power.limit \
    --format=csv | tee "$output/gpu.csv"
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
fi
measure versions 60 "$python" -c \
  'import importlib.metadata as m, json; print(json.dumps({each.name: each.version for each in m.distributions()}))'
verify tests 590 "$python" -m pytest -m gpu
for dtype in "${dtypes[@]}"; do
  measure "topk-$dtype" 300 "$python" -m perf topk "${topk[@]}" --dtype "$dtype"
done
for shape in "${shapes[@]}"; do
  measure_shape "$shape"
done

"$python" -m perf.gpu summary "$output" | tee "$output/summary.txt"
((${#failed[@]} == 0)) && exit
printf 'FAILED  %s\n' "${failed[@]}" | tee -a "$output/summary.txt" >&2
exit 1
