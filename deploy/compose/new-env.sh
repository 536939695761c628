#!/bin/sh
# Makes deploy/compose/.env with fresh random secrets. Does nothing where there is one already.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "deploy/compose/.env exists already; delete it to begin anew." >&2
    exit 1
fi
umask 077
random() { od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n'; }
cat >.env <<END
# Read by compose only; git ignores it. OPENAI_API_KEY is not needed with the simulators.
TOLLWAY_ADMIN_TOKEN=$(random)
TOLLWAY_KEY_PEPPER=$(random)
TOLLWAY_AUDIT_KEY=$(random)
POSTGRES_PASSWORD=$(random)
VALKEY_PASSWORD=$(random)
GRAFANA_PASSWORD=$(random)
TRIAGE_KEY=sk-$(random)
SUPPORT_KEY=sk-$(random)
OPENAI_API_KEY=sk-simulated
HF_TOKEN=
END
echo "deploy/compose/.env is made. Next: docker compose -f deploy/compose/compose.yaml up --build"
