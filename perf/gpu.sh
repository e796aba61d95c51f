#!/usr/bin/env bash
# Everything that needs a GPU, in one command: tests, parity of a compiled bundle, speed, as JSON in a folder.
#
#   perf/gpu.sh CHECKPOINT [OUTPUT]
#
# Needs this repository installed with its extras export and perf, a TensorRT library and cuda-bindings
# (see docs/gpu.md). OUTPUT is perf/gpu unless named.
set -euo pipefail
cd "$(dirname "$0")/.."
checkpoint=${1:?usage: perf/gpu.sh CHECKPOINT [OUTPUT]}
output=${2:-perf/gpu}
python=${PYTHON:-.venv/bin/python}

if ! nvidia-smi > /dev/null 2>&1; then
  echo "error: nvidia-smi finds no GPU; run this on a machine with one and its driver" >&2
  exit 1
fi
mkdir -p "$output"
nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv > "$output/gpu.csv"
cat "$output/gpu.csv"

# The CUDA top-k against NumPy and the CPU kernel; any failure ends the run.
"$python" -m pytest -m gpu

# A plan for this very card, where the library can be told to; the probes then run on it.
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
bundle="$output/bundle"
"$python" export/build_engine.py --checkpoint "$checkpoint" --output "$bundle" --backend tensorrt
"$python" -m engine check "$bundle" ||
  "$python" -m engine check "$bundle" --rebuild --target "$capability"
"$python" -m engine check "$bundle" | tee "$output/check.txt"

for users in 1 8 32; do
  for tokens in 350 450; do
    "$python" -m perf encoder "$bundle" --users "$users" --tokens "$tokens" \
      > "$output/encoder-$users-$tokens.json"
  done
done
"$python" -m perf load "$bundle" --rate 20 --search --objective-ms 100 --processes 8 \
  --json "$output/load.json" --report "$output/load.html"
echo "figures are in $output"
