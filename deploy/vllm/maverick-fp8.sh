#!/usr/bin/env bash
# Llama 4 Maverick, 17B active of 400B, FP8: 400 GB of weights on one node of 8xH100.
#
# What scout.sh says holds here too. Besides:
# - Take the FP8 checkpoint itself. Quantising BF16 at load needs its 800 GB first.
# - 400 GB of 640 GB are weights: the KV cache gets what remains, so keep --kv-cache-dtype fp8 and watch
#   vllm:kv_cache_usage_perc (the former gpu_cache_usage_perc is gone) before you raise --max-model-len.
# - FP8 weights want Hopper or newer. On A100 it would run through weight-only kernels at another speed: measure.
set -euo pipefail

exec vllm serve "${MODEL:-meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8}" \
  --host "${HOST:-0.0.0.0}" --port "${PORT:-8000}" \
  --tensor-parallel-size "${TENSOR_PARALLEL:-8}" \
  --max-model-len "${MAX_MODEL_LEN:-131072}" \
  --kv-cache-dtype fp8 \
  --limit-mm-per-prompt '{"image": 5}' \
  --enable-auto-tool-choice --tool-call-parser llama4_pythonic \
  --enable-prompt-tokens-details --enable-request-id-headers \
  --max-num-seqs "${MAX_RUNNING:-256}" --max-num-queued-reqs "${MAX_IN_SERVER:-320}" \
  --shutdown-timeout "${SHUTDOWN_TIMEOUT:-45}" \
  "$@"
