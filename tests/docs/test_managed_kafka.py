"""The settings for managed Kafkas: the layer, librdkafka and the system checks take each block."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kafka_layer.checks import check_cleartext_credentials, check_prefixes, check_settings
from kafka_layer.config.settings import LayerConfig
from kafka_layer.kafka.tokens import TokenSource
from kafka_layer.wire.topics import WorkTopic
from tests.support.certificates import Authority
from tests.support.pages import files_of
from tests.support.tables import for_each

PAGE = Path(__file__).parents[2] / "docs" / "managed-kafka.md"
FILES = files_of(PAGE.read_text())
SERVICES = [name.removesuffix(".py") for name in FILES if name != "settings.py"]

LEFT_OUT = {
    "msk_serverless": {"segment.ms"},
    "confluent_cloud": {"segment.ms"},
    "event_hubs": {"cleanup.policy", "retention.ms", "segment.ms", "message.timestamp.type"},
}
"""By service: the topic configs that the layer leaves to it."""

WARNINGS = {"event_hubs": ["kafka_layer.W001"]}
"""By service: the findings of the system checks that the page tells of."""

TOKEN = "e30.eyJzdWIiOiJ4In0."
LIFE = 900.0


class Signer:
    """Stands for ``MSKAuthTokenProvider``, which counts in milliseconds."""

    @staticmethod
    def generate_auth_token(region: str) -> tuple[str, int]:
        assert region == "eu-central-1"
        return TOKEN, int((time.time() + LIFE) * 1000)


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """CONFIG of each service's file, run one after another as the page has them."""
    authority = Authority(tmp_path, "authority")
    own = authority.issue("shop")
    for name, value in {
        "AWS_REGION": "eu-central-1",
        "CONFLUENT_API_KEY": "key",
        "CONFLUENT_API_SECRET": "secret",
        "EVENT_HUBS_CONNECTION_STRING": "Endpoint=sb://shop.servicebus.windows.net/;…",
        "KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9093",
        "KAFKA_CA_FILE": str(authority.certificate),
        "KAFKA_CERTIFICATE_FILE": str(own.certificate),
        "KAFKA_KEY_FILE": str(own.key),
        "KAFKA_PASSWORD": "secret",
        "KAFKA_USER": "shop",
    }.items():
        monkeypatch.setenv(name, value)
    signer: Any = ModuleType("aws_msk_iam_sasl_signer")
    signer.MSKAuthTokenProvider = Signer
    monkeypatch.setitem(sys.modules, signer.__name__, signer)
    found = {}
    for name in SERVICES:
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(FILES[f"{name}.py"], module.__dict__)
        found[name] = module.__dict__["CONFIG"]
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_a_project_with_the_settings_of_a_service_passes_all_checks(
    service: str, configs: dict[str, dict[str, Any]], settings: Any
) -> None:
    own = {"CONFIG": configs[service]}
    project: dict[str, Any] = {}
    exec(FILES["settings.py"].replace("from msk import CONFIG\n", ""), own, project)
    settings.CHANNEL_LAYERS = project["CHANNEL_LAYERS"]

    found = [*check_settings(), *check_cleartext_credentials(), *check_prefixes()]

    assert [each.id for each in found] == WARNINGS.get(service, []), found


@for_each("service", SERVICES)
def test_topics_get_no_config_that_a_service_refuses(
    service: str, configs: dict[str, dict[str, Any]]
) -> None:
    usual = LayerConfig.from_keywords(bootstrap_servers="a:1")
    config = LayerConfig.from_keywords(**configs[service])

    for topic in (*usual.topics, WorkTopic("jobs")):
        left_out = usual.topic_settings(topic).config.keys() - config.topic_settings(topic).config
        assert left_out == LEFT_OUT.get(service, set()), topic


def test_a_token_of_msk_expires_when_the_signer_says(configs: dict[str, dict[str, Any]]) -> None:
    properties = configs["msk"]["client_config"]

    token, expires = properties["oauth_cb"]("")

    assert token == TOKEN
    assert 0 < expires - time.time() <= LIFE
    TokenSource(properties["oauth_cb"]).prefetch("")
