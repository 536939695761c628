#!/usr/bin/env bash
# Llama 4 Maverick in BF16: 800 GB of weights on two nodes of 8xH100, tensor parallel within a node, pipeline
# parallel across the two. (8xH200 hold it on one node: maverick-fp8.sh with MODEL set and no FP8.)
#
#   on the first:   LEADER=10.0.0.1 RANK=0 ./maverick-bf16-two-nodes.sh
#   on the second:  LEADER=10.0.0.1 RANK=1 ./maverick-bf16-two-nodes.sh
#
# What scout.sh says holds here too. Besides:
# - The two are one replica: give the gateway the first one's address only. The second answers no requests.
# - If either dies, both must start again (LeaderWorkerSet: RecreateGroupOnPodRestart); a lone half hangs.
# - Tensor parallelism over the network between nodes is slow: keep --tensor-parallel-size at a node's GPUs.
# - Set NCCL_SOCKET_IFNAME / NCCL_IB_HCA to the fast network, or traffic takes the slow one without a word.
# - Each node needs the weights on a disk of its own, or twice the time to start.
# - A replica is 16 GPUs: cost.gpus_per_replica: 16 in tollway.yaml.
set -euo pipefail
: "${LEADER:?address of the first node}" "${RANK:?0 on the first node, 1 on the second}"

role=()
if [ "$RANK" != 0 ]; then role=(--headless); fi

exec vllm serve "${MODEL:-meta-llama/Llama-4-Maverick-17B-128E-Instruct}" \
  --host "${HOST:-0.0.0.0}" --port "${PORT:-8000}" \
  --tensor-parallel-size 8 --pipeline-parallel-size 2 \
  --nnodes 2 --node-rank "$RANK" --master-addr "$LEADER" "${role[@]}" \
  --max-model-len "${MAX_MODEL_LEN:-131072}" \
  --kv-cache-dtype fp8 \
  --limit-mm-per-prompt '{"image": 5}' \
  --enable-auto-tool-choice --tool-call-parser llama4_pythonic \
  --enable-prompt-tokens-details --enable-request-id-headers \
  --max-num-seqs "${MAX_RUNNING:-256}" --max-num-queued-reqs "${MAX_IN_SERVER:-320}" \
  --shutdown-timeout "${SHUTDOWN_TIMEOUT:-45}" \
  "$@"
