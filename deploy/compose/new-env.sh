#!/bin/sh
# Makes deploy/compose/.env and private/admin-token with fresh random secrets. Does nothing where there is one already.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "deploy/compose/.env exists already; delete it to begin anew." >&2
    exit 1
fi
umask 077
mkdir -p private
random() { od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n'; }
token=$(random)
printf '%s' "$token" >private/admin-token
chmod 0444 private/admin-token # Prometheus reads it as another user; the folder is open to nobody else
cat >.env <<END
# Read by compose only; git ignores it. OPENAI_API_KEY is not needed with the simulators.
TOLLWAY_ADMIN_TOKEN=$token
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
