"""The manifests for Kubernetes: valid, and in agreement with the demo, the layer and each other."""

from __future__ import annotations

import inspect
import json
import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import load_command_class
from django.urls import resolve

import kafka_layer
from demo_project import market
from demo_project.settings import KAFKA_LAYER
from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.kafka.specs import topic_specs
from tests.docs.test_compose import variables_read_by

REPOSITORY = Path(kafka_layer.__file__).parents[1]
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
BASE, STRIMZI = KUBERNETES / "base", KUBERNETES / "strimzi"
SETTINGS = REPOSITORY / "demo_project" / "settings.py"

OLDEST = "1.30"
"""The oldest version of Kubernetes for which docs/kubernetes.md promises the manifests."""

CLUSTER = "my-cluster"
PARTS = ("web", "worker")
# Minimum of three replicas that have a record before a sender is told that it is written.
IN_SYNC = {"min.insync.replicas": 2}


@cache
def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def kustomization(folder: Path) -> dict[str, Any]:
    (found,) = documents(folder / "kustomization.yaml")
    return found


def resources(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Return the resources of a kind that a folder's kustomization lists, by their names."""
    return {
        each["metadata"]["name"]: each
        for name in kustomization(folder)["resources"]
        if name.endswith(".yaml")
        for each in documents(folder / name)
        if each["kind"] == kind
    }


def deployment(part: str) -> dict[str, Any]:
    spec: dict[str, Any] = resources(BASE, "Deployment")[f"kafka-layer-demo-{part}"]["spec"]
    return spec


def pod(part: str) -> dict[str, Any]:
    if part == "topics":
        (job,) = resources(BASE, "Job").values()
        return dict(job["spec"]["template"]["spec"])
    return dict(deployment(part)["template"]["spec"])


def container(part: str) -> dict[str, Any]:
    (only,) = pod(part)["containers"]
    return dict(only)


def config() -> LayerConfig:
    return LayerConfig.from_keywords(**KAFKA_LAYER, default_topic_config=IN_SYNC)


@pytest.mark.parametrize("version", [OLDEST, "latest"])
def test_each_manifest_follows_kubernetes_schemas(version: str) -> None:
    import kubernetes_validate

    if version == "latest":
        version = kubernetes_validate.latest_version()
    for path in BASE.glob("*.yaml"):
        for each in documents(path):
            if each["kind"] != "Kustomization":
                kubernetes_validate.validate(each, version, strict=True)


def test_the_kustomizations_list_every_file() -> None:
    for folder in (BASE, STRIMZI):
        mine = kustomization(folder)
        listed = [*mine["resources"], *(each.get("path") for each in mine.get("patches", ()))]
        files = {each.name for each in folder.iterdir()} - {"kustomization.yaml"}
        assert {each for each in listed if each} - {"../base"} == files
    (image,) = kustomization(BASE)["images"]
    assert image == {"name": container("web")["image"], "newTag": kafka_layer.__version__}


def test_the_containers_run_programs_of_the_image() -> None:
    shown = re.search(r"^CMD (\[.*\])$", (REPOSITORY / "Dockerfile").read_text(), re.M)
    assert shown
    assert container("web")["command"] == json.loads(shown[1])
    for part, name in (("topics", "kafka_setup_topics"), ("worker", "runworker")):
        python, script, command, *options = container(part)["command"]
        assert (python, script, command) == ("python", "manage.py", name)
        given = load_command_class("kafka_layer", name).create_parser("", name).parse_args(options)
        if part == "worker":
            assert set(given.channels) <= set(KAFKA_LAYER["worker_channels"])
            (port,) = container(part)["ports"]
            assert given.health.port == port["containerPort"]
    assert "--uid" not in (REPOSITORY / "Dockerfile").read_text()  # the first user is 1000
    assert {pod(part)["securityContext"]["runAsUser"] for part in ("topics", *PARTS)} == {1000}


def test_the_demo_reads_all_variables_that_it_is_given() -> None:
    read = set(variables_read_by(SETTINGS))
    (shared,) = resources(BASE, "ConfigMap").values()
    assert set(shared["data"]) <= read
    for part in ("topics", *PARTS):
        mine = container(part)
        assert {each["name"] for each in mine.get("env", ())} <= read
        sources = [source for each in mine["envFrom"] for source in each.values()]
        # The second is a secret, which docs/kubernetes.md says how to make.
        assert sources == [{"name": shared["metadata"]["name"]}] * 2


def test_the_probes_ask_what_the_package_answers() -> None:
    web, worker = container("web"), container("worker")
    asked = {kind: web[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}

    for each in asked.values():
        assert resolve(each["path"], "demo_project.urls").func.__module__ == "kafka_layer.views"
        assert each["port"] == web["ports"][0]["name"]
        # The pod's address is none of ALLOWED_HOSTS.
        assert each["httpHeaders"] == [{"name": "Host", "value": "localhost"}]
    assert {kind: each["path"] for kind, each in asked.items()} == {
        "startup": "/kafka/ready",
        "readiness": "/kafka/live",
        "liveness": "/kafka/live",
    }
    assert worker["startupProbe"]["httpGet"] == {"path": "/ready", "port": "health"}
    assert worker["livenessProbe"]["httpGet"] == {"path": "/live", "port": "health"}


def test_a_pod_has_the_time_that_its_start_and_its_end_may_take() -> None:
    # Here, because it takes half a second: twisted and numpy.
    from daphne.server import Server

    for part in PARTS:
        probe = container(part)["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] > 10 * Timings().start
    handlers = inspect.signature(Server.__init__).parameters["application_close_timeout"].default
    _, pause = container("web")["lifecycle"]["preStop"]["exec"]["command"]
    least = int(pause) + handlers + Timings().close
    assert pod("web")["terminationGracePeriodSeconds"] > least
    assert pod("worker")["terminationGracePeriodSeconds"] > 10 * Timings().close


def test_there_is_a_partition_for_each_process() -> None:
    topics = {spec.name: spec.partitions for spec in topic_specs(config())}
    surge = deployment("web")["strategy"]["rollingUpdate"]["maxSurge"]
    servers = deployment("web")["replicas"] + deployment("worker")["replicas"] + surge
    for inbox in ("demo-send-conn", "demo-group-mgmt", "demo-ack"):
        assert topics[inbox] >= servers
    assert topics["demo-work.jobs"] >= deployment("worker")["replicas"]


def test_a_drain_leaves_pods_of_each_kind() -> None:
    (service,) = resources(BASE, "Service").values()
    assert service["spec"]["selector"] == deployment("web")["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] == container("web")["ports"][0]["name"]
    for part in PARTS:
        mine = deployment(part)
        budget = resources(BASE, "PodDisruptionBudget")[f"kafka-layer-demo-{part}"]["spec"]
        assert budget["selector"] == mine["selector"]
        assert budget["maxUnavailable"] < mine["replicas"]
        assert mine["selector"]["matchLabels"] == mine["template"]["metadata"]["labels"]
        assert mine["selector"]["matchLabels"]["part"] == part


def test_strimzis_topics_are_those_that_kafka_setup_topics_makes() -> None:
    made = {}
    for name, each in resources(STRIMZI, "KafkaTopic").items():
        assert each["metadata"]["labels"] == {"strimzi.io/cluster": CLUSTER}
        assert set(each["spec"]) == {"partitions", "replicas", "config"}
        assert each["spec"]["replicas"] == 3
        settings = {key: str(value) for key, value in each["spec"]["config"].items()}
        made[name] = (each["spec"]["partitions"], settings)

    assert made == {
        spec.name: (spec.partitions, dict(spec.config)) for spec in topic_specs(config())
    }


def test_strimzis_users_have_the_rights_of_the_security_page() -> None:
    from tests.security.test_rights import CHANNEL, rules_of

    prices = ("topic", market.TOPIC, "READ")
    web = {*rules_of("web server", "demo"), prices}
    worker = {
        (kind, name.replace(CHANNEL, "jobs"), right)
        for kind, name, right in rules_of("worker", "demo")
        if CHANNEL in name
    }
    wanted = {
        "demo-web": web | set(rules_of("sender of jobs", "demo")),
        "demo-worker": web | worker,
    }

    given = {}
    for user, each in resources(STRIMZI, "KafkaUser").items():
        assert each["metadata"]["labels"] == {"strimzi.io/cluster": CLUSTER}
        assert each["spec"]["authentication"] == {"type": "tls"}
        acls = each["spec"]["authorization"]["acls"]
        rights = [
            (rule["resource"]["type"], _pattern(rule["resource"]), right.upper())
            for rule in acls
            for right in rule["operations"]
        ]
        assert len(rights) == len(set(rights))
        given[user] = set(rights)
    assert given == wanted


def _pattern(resource: dict[str, str]) -> str:
    return resource["name"] + {"literal": "", "prefix": "*"}[resource.get("patternType", "literal")]


def test_strimzis_certificates_are_where_the_demo_looks_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inline = [each["patch"] for each in kustomization(STRIMZI)["patches"] if "patch" in each]
    job, shared = map(yaml.safe_load, inline)
    assert job["metadata"]["name"] in resources(BASE, job["kind"])
    assert shared["metadata"]["name"] in resources(BASE, shared["kind"])
    for name, value in shared["data"].items():
        monkeypatch.setenv(name, value)
    demo = runpy.run_path(str(SETTINGS))["KAFKA_LAYER"]
    assert demo["bootstrap_servers"] == f"{CLUSTER}-kafka-bootstrap:9093"
    assert demo["client_config"]["security.protocol"] == "SSL"
    looked_for = {
        value for name, value in demo["client_config"].items() if name.endswith(".location")
    }

    for part in PARTS:
        (patch,) = documents(STRIMZI / f"{part}-certificates.yaml")
        assert patch["metadata"]["name"] in resources(BASE, "Deployment")
        spec = patch["spec"]["template"]["spec"]
        (mine,) = spec["containers"]
        assert mine["name"] == container(part)["name"]
        # What Strimzi writes into the secrets of the cluster and of a user.
        keys = {f"{CLUSTER}-cluster-ca-cert": {"ca.crt"}, f"demo-{part}": {"user.crt", "user.key"}}
        secrets = {each["name"]: each["secret"]["secretName"] for each in spec["volumes"]}
        assert set(secrets.values()) == keys.keys()
        assert f"demo-{part}" in resources(STRIMZI, "KafkaUser")
        assert looked_for == {
            f"{each['mountPath']}/{key}"
            for each in mine["volumeMounts"]
            for key in keys[secrets[each["name"]]]
        }
