"""Schemas of the custom resources that the chart makes: the fields it uses, and no others."""

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 1}
LABELS: Schema = {"type": "object", "minProperties": 1, "additionalProperties": STRING}


def fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


def items(of: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": of}


SECRET_KEY = fields({"name": STRING, "key": STRING})
SELECTOR = fields({"matchLabels": LABELS})
ENDPOINT = {"port": STRING, "path": STRING, "interval": STRING}
TRIGGER = fields(
    {
        "type": {"const": "prometheus"},
        # KEDA takes texts only, numbers included.
        "metadata": fields(
            {"serverAddress": STRING, "query": STRING, "threshold": STRING, "ignoreNullValues": STRING}
        ),
    }
)
RULE: Schema = fields(
    {"expr": {"type": ["string", "integer"]}},
    {
        "alert": STRING,
        "record": STRING,
        "for": STRING,
        "keep_firing_for": STRING,
        "labels": LABELS,
        "annotations": LABELS,
    },
)

SPECS: dict[tuple[str, str], Schema] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): fields(
        {
            "selector": SELECTOR,
            "endpoints": items(
                fields(ENDPOINT | {"authorization": fields({"credentials": SECRET_KEY})}),
            ),
        }
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): fields(
        {
            "selector": SELECTOR,
            "podTargetLabels": items(STRING),
            "podMetricsEndpoints": items(fields(ENDPOINT)),
        }
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): fields(
        {"groups": items(fields({"name": STRING, "rules": items(RULE)}, {"interval": STRING}))}
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): fields(
        {
            "scaleTargetRef": fields({"apiVersion": STRING, "kind": STRING, "name": STRING}),
            "minReplicaCount": COUNT,
            "maxReplicaCount": COUNT,
            "pollingInterval": COUNT,
            "cooldownPeriod": COUNT,
            "advanced": {"type": "object"},
            "triggers": items(TRIGGER),
        }
    ),
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): fields(
        {
            "networkConfig": fields({"subdomainPolicy": {"enum": ["Shared", "UniquePerReplica"]}}),
            "leaderWorkerTemplate": fields(
                {
                    "size": COUNT,
                    "restartPolicy": {"const": "RecreateGroupOnPodRestart"},
                    "leaderTemplate": {"type": "object"},
                    "workerTemplate": {"type": "object"},
                }
            ),
        },
        {"replicas": COUNT},
    ),
}
