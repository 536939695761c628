#!/usr/bin/env bash
# Llama 4 Scout, 17B active of 109B, BF16: 218 GB of weights on one node of 8x80 GB.
#
# Traps:
# - No --api-key: it would guard /v1 only; /metrics, /tokenize and the rest stay open. Let only the gateway reach
#   the port (a NetworkPolicy, a firewall, a private network).
# - The context of 10M is advertised, 256K was trained. --max-model-len costs KV memory only where it is used, but a
#   server that cannot hold one such request refuses to start; context_tokens in tollway.yaml must not be larger.
# - Prefix caching is on by default. Recipes that turn it off measure synthetic prompts; leave it on.
# - --enable-prompt-tokens-details: without it cached tokens are not reported, and cost too much in the ledger.
# - --max-num-queued-reqs: beyond it vLLM answers 503 at once and the gateway takes another replica. Without it the
#   queue has no bound, and every request in it waits longer than its client does.
# - --shutdown-timeout: without it SIGTERM ends open streams with finish_reason "abort" under status 200. Give the
#   supervisor longer than that before it kills (terminationGracePeriodSeconds, stop_grace_period, TimeoutStopSec).
# - Images: the model was tested with 5 in a request; --limit-mm-per-prompt holds that.
# - Tool calls sometimes stay in `content` (vllm#46863): try yours before you route them here.
set -euo pipefail

exec vllm serve "${MODEL:-meta-llama/Llama-4-Scout-17B-16E-Instruct}" \
  --host "${HOST:-0.0.0.0}" --port "${PORT:-8000}" \
  --tensor-parallel-size "${TENSOR_PARALLEL:-8}" \
  --max-model-len "${MAX_MODEL_LEN:-131072}" \
  --kv-cache-dtype fp8 \
  --limit-mm-per-prompt '{"image": 5}' \
  --enable-auto-tool-choice --tool-call-parser llama4_pythonic \
  --enable-prompt-tokens-details --enable-request-id-headers \
  --max-num-queued-reqs "${MAX_QUEUED:-64}" \
  --shutdown-timeout "${SHUTDOWN_TIMEOUT:-45}" \
  "$@"
