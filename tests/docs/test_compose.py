"""The compose file: valid, started in order, and in agreement with what it puts together."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    ResourceType,
)

from demo_project import market
from demo_project.settings import KAFKA_LAYER
from tests.support.kafka import DEFAULT_KAFKA_VERSION
from tests.support.schemas import require_schema
from tests.support.sources import parsed

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE_FILE = REPOSITORY / "compose.yaml"
WORKERS = ("worker-1", "worker-2", "worker-3")

# Variables of the image's start scripts, which are no broker properties.
IMAGE_VARIABLES = {"KAFKA_HEAP_OPTS"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    return loaded


@pytest.mark.slow
def test_it_follows_the_compose_specification() -> None:
    require_schema("vendor.compose-spec", COMPOSE_FILE)


def test_it_has_a_broker_three_workers_jobs_a_market_and_a_proxy(services: dict[str, Any]) -> None:
    assert set(services) == {"kafka", "topics", *WORKERS, "jobs", "market", "proxy"}


def test_each_service_has_an_image_or_is_built(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert ("image" in service) != ("build" in service), name
        if "build" in service:
            assert (REPOSITORY / service["build"] / "Dockerfile").is_file()


def test_all_that_can_be_asked_has_a_health_check(services: dict[str, Any]) -> None:
    for name in set(services) - {"topics", "jobs", "market"}:
        check = services[name]["healthcheck"]
        assert check["test"][0] == "CMD", name
        assert {"interval", "timeout", "retries", "start_period"} <= set(check), name


def test_each_starts_after_what_it_needs(services: dict[str, Any]) -> None:
    order = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert order == {
        "kafka": {},
        "topics": {"kafka": "service_healthy"},
        **{worker: {"topics": "service_completed_successfully"} for worker in WORKERS},
        "jobs": {"topics": "service_completed_successfully"},
        "market": {"kafka": "service_healthy"},
        "proxy": dict.fromkeys(WORKERS, "service_healthy"),
    }


def test_the_topics_are_made_by_the_packages_own_command(services: dict[str, Any]) -> None:
    program, script, command = services["topics"]["command"]
    assert (program, script) == ("python", "manage.py")
    assert (REPOSITORY / script).is_file()
    assert (REPOSITORY / f"kafka_layer/management/commands/{command}.py").is_file()


def test_the_market_is_a_program_of_the_image_and_writes_what_the_board_reads(
    services: dict[str, Any],
) -> None:
    assert services["market"]["command"] == ["python", "-m", market.__name__]
    assert services["market"]["environment"] == services["topics"]["environment"]
    assert f"`--topic {market.TOPIC}`" in COMPOSE_FILE.read_text()
    assert KAFKA_LAYER["streams"]["prices"]["topic"] == market.TOPIC


def test_the_demo_reads_all_variables_that_it_is_given(services: dict[str, Any]) -> None:
    read = set(variables_read_by(REPOSITORY / "demo_project/settings.py"))
    for name in ("topics", "jobs", "market", *WORKERS):
        assert set(services[name]["environment"]) <= read, name


def test_workers_differ_in_their_names_alone(services: dict[str, Any]) -> None:
    for worker in WORKERS:
        environment = services["worker-1"]["environment"] | {"DEMO_WORKER": worker}
        assert services[worker] == services["worker-1"] | {"environment": environment}


def test_all_connect_to_the_address_that_the_broker_advertises(services: dict[str, Any]) -> None:
    advertised = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    address = advertised.removeprefix("PLAINTEXT://")
    for name in ("topics", "market", *WORKERS):
        assert services[name]["environment"]["KAFKA_BOOTSTRAP_SERVERS"] == address
    assert address in services["kafka"]["healthcheck"]["test"]


def test_the_brokers_version_is_the_one_that_is_tested(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{DEFAULT_KAFKA_VERSION}"


def test_the_brokers_variables_name_real_properties(services: dict[str, Any], kafka: str) -> None:
    known = broker_properties(kafka)
    for variable in set(services["kafka"]["environment"]) - IMAGE_VARIABLES:
        assert property_of(variable) in known, variable


def test_the_proxy_knows_each_worker_and_its_port(services: dict[str, Any]) -> None:
    upstream = re.findall(r"^\s*server ([\w-]+):(\d+)", nginx_conf(services), re.MULTILINE)
    port = re.search(r'"--port", "(\d+)"', (REPOSITORY / "Dockerfile").read_text())
    assert port
    assert upstream == [(worker, port[1]) for worker in WORKERS]
    for worker in WORKERS:
        assert f":{port[1]}/" in str(services[worker]["healthcheck"]["test"])


def test_the_proxy_listens_where_its_port_leads_and_lets_websockets_pass(
    services: dict[str, Any],
) -> None:
    conf = nginx_conf(services)
    (published,) = services["proxy"]["ports"]
    assert published == "8000:80"
    for directive in (
        "listen 80;",
        "proxy_pass http://workers;",
        "proxy_http_version 1.1;",
        "proxy_set_header Upgrade $http_upgrade;",
        "proxy_set_header Connection $connection_upgrade;",
        "proxy_set_header Host $http_host;",
    ):
        assert directive in conf


def test_the_image_copies_only_what_exists() -> None:
    for sources in re.findall(r"^COPY (.+) \S+$", (REPOSITORY / "Dockerfile").read_text(), re.M):
        for source in sources.split():
            assert (REPOSITORY / source).exists(), source


def nginx_conf(services: dict[str, Any]) -> str:
    (volume,) = services["proxy"]["volumes"]
    source, target, mode = str(volume).split(":")
    assert (target, mode) == ("/etc/nginx/conf.d/default.conf", "ro")
    return (REPOSITORY / source).read_text()


def variables_read_by(settings: Path) -> Iterator[str]:
    """Yield the names in all ``os.environ.get("NAME", …)`` and ``os.environ["NAME"]``."""
    for node in ast.walk(parsed(settings)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr="environ"), attr="get"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name
            case ast.Subscript(
                value=ast.Attribute(attr="environ"), slice=ast.Constant(value=str(name))
            ):
                yield name


def property_of(variable: str) -> str:
    """Return the broker property that the image makes of a variable, by its documentation."""
    name = variable.removeprefix("KAFKA_").replace("___", "-").replace("__", "\0")
    return name.replace("_", ".").replace("\0", "_").lower()


def broker_properties(servers: str) -> set[str]:
    admin = AdminClient({"bootstrap.servers": servers})
    broker_id = next(iter(admin.list_topics(timeout=30).brokers))
    resource = ConfigResource(ResourceType.BROKER, str(broker_id))
    (described,) = admin.describe_configs([resource]).values()
    return set(described.result(30))
