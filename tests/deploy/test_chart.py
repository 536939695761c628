"""helm/tollway: linted and rendered by Helm itself, valid on every Kubernetes it names, and closed."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from tests.deploy.chart import (
    CHART,
    ROOT,
    SETS,
    Manifest,
    component,
    kinds,
    manifests,
    notes,
    one,
    pods,
    rendered,
    values,
)
from tests.deploy.custom_resources import SPECS

NAMES = [path.name.removesuffix("-values.yaml") for path in SETS]
OLDEST, NEWEST = "1.30", "1.37"
each_set = pytest.mark.parametrize("name", NAMES)


def containers(name: str) -> list[tuple[str, Manifest, Manifest]]:
    """Component, pod and container of everything that runs."""
    return [
        (component(manifest), pod["spec"], container)
        for manifest in manifests(name)
        for pod in pods(manifest)
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
    ]


def test_there_are_value_sets_for_every_way_to_run_it() -> None:
    assert len(NAMES) >= 6


# --- valid ---


@each_set
def test_helm_lints_it_strictly(name: str) -> None:
    report = helm_python.lint(CHART, values(name), strict=True)
    assert report["errors"] == []
    assert [m["error"] for m in report["messages"] if m["severity"] >= 2] == []


@each_set
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_manifest_is_what_kubernetes_accepts(name: str, version: str) -> None:
    for manifest in manifests(name):
        custom = SPECS.get((manifest["apiVersion"], manifest["kind"]))
        if custom is None:
            kubernetes_validate.validate(manifest, version, strict=True)
            continue
        jsonschema.validate(manifest["spec"], custom)
        for pod in pods(manifest):
            bare = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod["spec"]}
            kubernetes_validate.validate(bare, version, strict=True)


@each_set
def test_names_fit_and_nothing_is_made_twice(name: str) -> None:
    made = [(m["kind"], m["metadata"]["name"]) for m in manifests(name)]
    assert len(set(made)) == len(made)
    assert all(len(called) <= 63 for _, called in made)


@each_set
def test_selectors_select_the_pods_that_are_meant(name: str) -> None:
    templates = [pod["metadata"]["labels"] for m in manifests(name) for pod in pods(m)]
    for manifest in manifests(name):
        spec = manifest.get("spec") or {}
        if manifest["kind"] == "Service":
            selector = spec["selector"]
        elif manifest["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            selector = spec["selector"]["matchLabels"]
        else:
            continue
        assert any(selector.items() <= labels.items() for labels in templates), manifest["metadata"]["name"]


# --- the pods ---


@each_set
def test_nothing_runs_as_root_or_with_rights_of_its_own(name: str) -> None:
    for _, pod, container in containers(name):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))


@each_set
def test_everything_has_requests_and_limits(name: str) -> None:
    for _, _, container in containers(name):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


@each_set
def test_everything_that_answers_is_probed(name: str) -> None:
    for _, _, container in containers(name):
        if "ports" in container:
            assert {"livenessProbe", "readinessProbe"} <= container.keys()


@each_set
def test_no_secret_is_in_plain_text(name: str) -> None:
    assert kinds(manifests(name), "Secret") == []
    for _, _, container in containers(name):
        for variable in container.get("env", []):
            if re.search("PASSWORD|TOKEN|SECRET|KEY", variable["name"]):
                assert set(variable["valueFrom"]) == {"secretKeyRef"}


@each_set
def test_the_gateway_has_the_time_that_it_takes_to_drain(name: str) -> None:
    found = manifests(name)
    given = values(name).get("gateway", {})
    (pod,) = pods(one(found, given.get("workload", "StatefulSet")))
    (container,) = pod["spec"]["containers"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drains = given.get("drainSeconds", 30)
    assert pod["spec"]["terminationGracePeriodSeconds"] >= waits + drains + 10
    for config in kinds(found, "ConfigMap"):
        if "tollway.yaml" in config["data"]:
            server = yaml.safe_load(config["data"]["tollway.yaml"])["server"]
            assert server.get("drain_seconds", 30) == drains


@each_set
def test_the_configuration_is_mounted_so_that_a_change_arrives(name: str) -> None:
    for role, _, container in containers(name):
        if role == "gateway":
            assert not any("subPath" in mount for mount in container["volumeMounts"])
            (config,) = [mount for mount in container["volumeMounts"] if mount["name"] == "config"]
            assert (config["mountPath"], config["readOnly"]) == ("/etc/tollway", True)


def test_the_journal_outlives_the_pod_unless_it_is_asked_not_to() -> None:
    stateful = one(manifests("external"), "StatefulSet")["spec"]
    (claim,) = stateful["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "journal"
    assert stateful["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    (pod,) = pods(one(manifests("stateless"), "Deployment"))
    (journal,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "journal"]
    assert "emptyDir" in journal


def test_pods_are_scaled_spread_and_not_all_evicted() -> None:
    found = manifests("external")
    scaler = one(found, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "tollway"}
    workload = one(found, "StatefulSet")["spec"]
    assert "replicas" not in workload  # or each upgrade would undo what the scaler did
    spread = workload["template"]["spec"]["topologySpreadConstraints"]
    assert {constraint["topologyKey"] for constraint in spread} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    assert one(found, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


# --- the network ---


def policy_of(name: str, policy: str = "tollway") -> dict[str, Any]:
    spec: dict[str, Any] = one(manifests(name), "NetworkPolicy", policy)["spec"]
    return spec


def peers(rules: list[dict[str, Any]], side: str) -> list[dict[str, Any]]:
    return [peer for rule in rules for peer in rule[side]]


def goes_outside(spec: dict[str, Any]) -> bool:
    blocks = [peer["ipBlock"]["cidr"] for peer in peers(spec["egress"], "to") if "ipBlock" in peer]
    return "0.0.0.0/0" in blocks or "::/0" in blocks


@each_set
def test_whatever_runs_is_closed_in_both_directions(name: str) -> None:
    policies = [manifest["spec"] for manifest in kinds(manifests(name), "NetworkPolicy")]
    if values(name).get("networkPolicy", {}).get("enabled") is False:
        assert policies == []
        return
    for spec in policies:
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert all(peer for peer in peers(spec["ingress"], "from"))
        assert all(rule.get("ports") for rule in spec["ingress"] if "tollway/pool" not in str(rule))
    for manifest in manifests(name):
        for pod in pods(manifest):
            labels = pod["metadata"]["labels"]
            assert any(selects(spec["podSelector"], labels) for spec in policies), manifest["metadata"][
                "name"
            ]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector["matchLabels"].items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"]
        for expression in selector.get("matchExpressions", [])
    )


@pytest.mark.parametrize(
    ("name", "outside"),
    [("external", True), ("trial", True), ("stateless", True), ("at-home", False), ("maverick", False)],
)
def test_traffic_leaves_only_where_some_zone_is_outside(name: str, outside: bool) -> None:
    assert goes_outside(policy_of(name)) is outside


def test_what_may_go_outside_may_not_go_to_private_addresses() -> None:
    (block,) = [
        peer["ipBlock"]
        for peer in peers(policy_of("external")["egress"], "to")
        if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
    ]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(block["except"])


def test_a_pool_is_reached_by_the_gateway_and_by_prometheus_only_and_reaches_nobody() -> None:
    spec = policy_of("at-home", "tollway-scout")
    gateway, scraper = peers(spec["ingress"], "from")
    assert gateway["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    assert scraper["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [[53, 53]]


def test_weights_are_fetched_only_where_that_is_allowed() -> None:
    assert goes_outside(policy_of("maverick", "tollway-maverick-fp8"))
    assert not goes_outside(policy_of("maverick", "tollway-maverick"))


def test_the_admin_port_is_for_scrapers_and_never_part_of_the_service_or_the_ingress() -> None:
    found = manifests("full")
    assert [port["targetPort"] for port in one(found, "Service")["spec"]["ports"]] == ["data"]
    (rule,) = one(found, "Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["backend"]["service"]["port"]) == ("/v1", {"name": "data"})
    to_admin = [rule for rule in policy_of("full")["ingress"] if rule["ports"] == [{"port": "admin"}]]
    assert [peer["namespaceSelector"]["matchLabels"] for peer in peers(to_admin, "from")] == [
        {"kubernetes.io/metadata.name": "monitoring"}
    ]


# --- pools, migration, monitoring ---


def test_two_nodes_are_one_replica_and_only_its_leader_answers() -> None:
    group = one(manifests("maverick"), "LeaderWorkerSet", "tollway-maverick")["spec"]["leaderWorkerTemplate"]
    assert (group["size"], group["restartPolicy"]) == (2, "RecreateGroupOnPodRestart")
    leader, worker = (group[role]["spec"]["containers"][0] for role in ("leaderTemplate", "workerTemplate"))
    assert "--headless" in worker["args"]
    assert "--headless" not in leader["args"]
    assert "ports" in leader
    assert "ports" not in worker
    for container in (leader, worker):
        assert "--pipeline-parallel-size=2" in container["args"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 8


def test_a_pool_of_deployments_would_have_no_names() -> None:
    given = values("maverick")
    given["pools"]["maverick-fp8"]["replicas"] = 2
    with pytest.raises(helm_python.HelmError, match="use StatefulSet, or replicas: 1"):
        rendered(given)


def test_a_pool_may_drain_longer_than_vllm_takes() -> None:
    (pod,) = pods(one(manifests("at-home"), "StatefulSet", "tollway-scout"))
    (container,) = pod["spec"]["containers"]
    assert "--shutdown-timeout=45" in container["args"]
    assert (
        pod["spec"]["terminationGracePeriodSeconds"]
        > 45 + container["lifecycle"]["preStop"]["sleep"]["seconds"]
    )


def test_a_pool_is_scaled_by_its_queue() -> None:
    scaled = one(manifests("at-home"), "ScaledObject", "tollway-scout")["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (1, 3)
    waiting, inflight = (trigger["metadata"] for trigger in scaled["triggers"])
    assert waiting["query"] == 'sum(vllm:num_requests_waiting{namespace="llm", pod=~"tollway-scout-.*"})'
    assert inflight["query"] == 'sum(tollway_replica_inflight{deployment="llama-4-scout"})'
    assert "replicas" not in one(manifests("at-home"), "StatefulSet", "tollway-scout")["spec"]


@pytest.mark.parametrize(
    ("name", "when"), [("external", "pre-install,pre-upgrade"), ("trial", "post-install,pre-upgrade")]
)
def test_the_ledger_is_migrated_before_the_pods_change(name: str, when: str) -> None:
    job = one(manifests(name), "Job", "tollway-migration")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == when
    (pod,) = pods(job)
    assert pod["spec"]["containers"][0]["args"][:2] == ["ledger", "migrate"]
    # Before an install there is no ConfigMap yet, so the Job brings its own.
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "config"]
    config = one(manifests(name), "ConfigMap", volume["configMap"]["name"])
    assert config["metadata"]["annotations"]["helm.sh/hook"] == when
    weights = [int(made["metadata"]["annotations"]["helm.sh/hook-weight"]) for made in (config, job)]
    assert weights == sorted(weights)


def test_a_ledger_in_a_file_is_migrated_by_its_gateway() -> None:
    assert kinds(manifests("single"), "Job") == []


def test_metrics_are_read_with_the_token_from_a_secret() -> None:
    (endpoint,) = one(manifests("full"), "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "tollway", "key": "TOLLWAY_ADMIN_TOKEN"}


def test_rules_and_dashboards_are_those_of_the_deploy_folder() -> None:
    rules = sorted((ROOT / "deploy" / "prometheus").glob("*.yaml"))
    dashboards = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
    groups = [group for path in rules for group in yaml.safe_load(path.read_text()).get("groups", [])]
    made = [m["spec"]["groups"] for m in kinds(manifests("full"), "PrometheusRule")]
    assert made == ([groups] if groups else [])
    carried = [m["data"] for m in manifests("full") if "grafana_dashboard" in m["metadata"]["labels"]]
    assert [{name: json.loads(text) for name, text in data.items()} for data in carried] == [
        {path.name: json.loads(path.read_text())} for path in dashboards
    ]


@pytest.mark.parametrize("name", [name for name in NAMES if "text" in values(name).get("config", {})])
def test_the_configuration_of_a_value_set_is_one_that_tollway_serves(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = values(name)["config"]["text"]
    for number, variable in enumerate(sorted(set(re.findall(r"\$\{(\w+)\}", text)))):
        monkeypatch.setenv(variable, f"{number:064x}")
    (tmp_path / "tollway.yaml").write_text(text)
    done = CliRunner().invoke(app, ["check", str(tmp_path / "tollway.yaml")])
    assert done.exit_code == 0, done.output


def test_an_install_says_which_replicas_the_configuration_should_list() -> None:
    given = values("at-home")
    replicas = yaml.safe_load(given["config"]["text"])["deployments"]["llama-4-scout"]["replicas"]["urls"]
    told = notes(given)
    assert [url for url in replicas if url in told] == replicas
    assert told.count("tollway-scout-") == len(replicas)
    assert "Clients: http://tollway.llm.svc/v1" in told


def test_a_packed_chart_carries_the_rules_themselves_and_no_links(tmp_path: Path) -> None:
    with tarfile.open(helm_python.package(CHART, destination=tmp_path)) as archive:
        members = {member.name: member for member in archive.getmembers()}
    rules = [path.name for path in (ROOT / "deploy" / "prometheus").glob("*.yaml")]
    assert all(members[f"tollway/files/prometheus/{name}"].isreg() for name in rules)
    assert all(member.isreg() for member in members.values())
    assert not any("/ci/" in name or name.endswith(".py") for name in members)


# --- values that cannot work ---


def config_of(given: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    text = given["config"]["text"]
    assert old in text
    return given | {"config": {"text": text.replace(old, new)}}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{host: 0.0.0.0}", "{port: 8080}", "server.data.host: must be 0.0.0.0"),
        (
            "{host: 0.0.0.0}",
            "{host: 0.0.0.0, port: 9000}",
            "server.data.port: must be gateway.dataPort, 8080",
        ),
        (
            "journal_dir",
            "drain_seconds: 90\n  journal_dir",
            "server.drain_seconds: must be gateway.drainSeconds",
        ),
        ("/var/lib/tollway/journal", "/journal", "server.journal_dir: must be within /var/lib/tollway"),
        ("rediss://:${REDIS_PASSWORD}@redis.example.internal:6379/0", "memory", "state: several pods need"),
        ("postgresql://tollway:${PGPASSWORD}@db", "sqlite:///db", "ledger: several pods need a ledger"),
        ('audit: {signing_key: "${TOLLWAY_AUDIT_KEY}"}', "", "audit.signing_key: several pods must sign"),
        ("${OPENAI_API_KEY}", "sk-proj-1", "deployments.gpt-4o.api_key: is written out"),
        ("${TRIAGE_KEY}", "sk-tollway-1", "keys.app.secret: is written out"),
        ("${TOLLWAY_ADMIN_TOKEN}", "hunter2", "server.admin.token: is written out"),
        ("${PGPASSWORD}", "hunter2", "ledger: has a password in it"),
        ("zones:", "zones: [", "config.text: is no YAML"),
    ],
)
def test_a_configuration_that_would_fail_in_the_pod_fails_before(old: str, new: str, said: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(said)):
        rendered(config_of(values("external"), old, new))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "config: set text"),
        ({"config": {"existingConfigMap": "a", "text": "b: c"}}, "not both"),
        ({"autoscaling": {"min": 3, "max": 2}}, "autoscaling.max: must not be less than min"),
        ({"redis": {"enabled": True}}, "redis.passwordSecret.name"),
        ({"postgresql": {"enabled": True}}, "postgresql.passwordSecret.name"),
        ({"monitoring": {"serviceMonitor": {"enabled": True}}}, "serviceMonitor.tokenSecret.name"),
        ({"ingress": {"enabled": True, "hosts": []}}, "at least one host"),
        ({"gateway": {"replica": 3}}, "replica"),
        ({"gateway": {"workload": "DaemonSet"}}, "workload"),
        ({"pools": {"Scout": {}}}, "Scout"),
        ({"pools": {"scout": {"gpus": 8}}}, "gpus"),
    ],
)
def test_values_that_cannot_work_are_refused_with_what_to_do(given: dict[str, Any], said: str) -> None:
    base: dict[str, Any] = {} if not given else {"config": {"existingConfigMap": "tollway"}}
    with pytest.raises(helm_python.HelmError, match=said):
        rendered(base | given)
