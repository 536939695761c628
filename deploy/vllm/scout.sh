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
# - --max-num-queued-reqs bounds all requests in the server, those that run included, and each choice of `n` is one:
#   keep it above --max-num-seqs. Beyond it vLLM answers 503 at once and the gateway asks the other replicas. Without
#   it the queue has no bound, and every request in it waits longer than its client does.
# - --shutdown-timeout: with it SIGTERM lets requests finish, and new ones get an error, so that the gateway sends them
#   to another replica; /health answers 200 all the while. Without it the engine dies first: a single stream may end
#   with finish_reason "abort" under status 200, several fall silent on connections that stay open. The gateway ends
#   these after `health.silence_seconds`, and the clients have lost them. Give the supervisor longer than the timeout
#   before it kills (terminationGracePeriodSeconds, stop_grace_period, TimeoutStopSec), and `health.drain_seconds` too.
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
  --max-num-seqs "${MAX_RUNNING:-256}" --max-num-queued-reqs "${MAX_IN_SERVER:-320}" \
  --shutdown-timeout "${SHUTDOWN_TIMEOUT:-45}" \
  "$@"
