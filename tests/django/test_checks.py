"""The system checks: each id is found for its cause, names it, and nothing else is found."""

from __future__ import annotations

import importlib
import socket
import sys
import threading
import time
from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from kafka_layer.checks import (
    TAG,
    check_apps,
    check_cleartext_credentials,
    check_prefixes,
    check_settings,
)
from kafka_layer.layer import KafkaChannelLayer

KAFKA = "kafka_layer.layer.KafkaChannelLayer"


class BranchLayer(KafkaChannelLayer):
    """A project's own layer, with a keyword of its own."""

    def __init__(self, branch: str, **config: Any) -> None:
        super().__init__(**config, prefix=branch)


class NeverMadeLayer(KafkaChannelLayer):
    """A layer of which no instance can be made."""

    def __new__(cls, **config: Any) -> Any:
        raise AssertionError("a layer was made")


def layer(backend: str = KAFKA, **config: Any) -> dict[str, Any]:
    return {"BACKEND": backend, "CONFIG": {"bootstrap_servers": "kafka:9092", **config}}


@pytest.fixture
def found(settings: Any) -> Any:
    """Run the check over these layers and return what it found."""

    def check(**layers: Any) -> list[CheckMessage]:
        settings.CHANNEL_LAYERS = layers
        return check_settings()

    return check


def only(messages: list[CheckMessage]) -> CheckMessage:
    assert len(messages) == 1, messages
    return messages[0]


def test_right_settings_pass(found: Any) -> None:
    assert found(default=layer(), other=layer(prefix="other")) == []


def test_no_layer_is_made_to_read_its_settings(found: Any) -> None:
    backend = f"{__name__}.NeverMadeLayer"

    assert found(default=layer(backend)) == []
    assert only(found(default=layer(backend, expiry="60"))).id == "kafka_layer.E001"


def test_no_kafka_layer_is_fine(found: Any, settings: Any) -> None:
    assert found() == []
    assert found(default={"BACKEND": "channels.layers.InMemoryChannelLayer"}) == []
    del settings.CHANNEL_LAYERS
    assert check_settings() == []


def test_the_checks_run_with_djangos_own(found: Any, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(prefix="")}

    assert [each.id for each in run_checks(tags=[TAG])] == ["kafka_layer.E001"]
    with pytest.raises(SystemCheckError, match=r"kafka_layer\.E001"):
        call_command("check")


def test_e001_wrong_configuration_verbatim(found: Any) -> None:
    message = only(found(default=layer(), broken=layer(expiry="60")))

    assert message.id == "kafka_layer.E001"
    assert message.msg == ("expiry is '60'; it must be a number of seconds from 0.1 to 2147483.")
    assert message.obj == "CHANNEL_LAYERS['broken']"
    assert "pydoc kafka_layer.config.settings.LayerConfig" in str(message.hint)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "CONFIG is a list; it must be a dict of keywords."),
        ({}, "CONFIG has no bootstrap_servers"),
        ({5: 1}, "CONFIG does not fit KafkaChannelLayer: keywords must be strings."),
    ],
)
def test_e001_config_of_the_wrong_shape(found: Any, config: Any, said: str) -> None:
    message = only(found(default={"BACKEND": KAFKA, "CONFIG": config}))

    assert message.id == "kafka_layer.E001"
    assert said in message.msg


def test_a_subclass_is_checked_with_its_own_keywords(found: Any) -> None:
    path = f"{__name__}.BranchLayer"

    assert found(default=layer(path, branch="north")) == []
    assert "prefix is ''" in only(found(default=layer(path, branch=""))).msg
    assert "missing 1 required positional argument" in only(found(default=layer(path))).msg


def test_e002_encryption_without_cryptography(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)

    message = only(found(default=layer(symmetric_encryption_keys=["k"])))

    assert message.id == "kafka_layer.E002"
    assert "cryptography is not installed" in message.msg
    assert "kafka-layer[encryption]" in str(message.hint)
    assert found(default=layer()) == []


def test_e002_a_registry_without_its_packages(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("confluent_kafka.schema_reg")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastavro", None)
    stream = {"value": "avro", "schema_registry": {"url": "http://registry:8081"}}

    message = only(found(default=layer(streams={"orders": stream})))

    assert message.id == "kafka_layer.E002"
    assert "kafka-layer[schema-registry]" in str(message.hint)


def test_streams_are_checked_with_their_own_clients(found: Any) -> None:
    wrong = only(found(default=layer(streams={"orders": {"gruop": "a"}})))
    assert (wrong.id, wrong.obj) == ("kafka_layer.E001", "CHANNEL_LAYERS['default']")
    assert "did you mean 'group'?" in wrong.msg

    own = {"bootstrap_servers": "other:9092", "client_config": {"nonsense": 1}}
    refused = only(found(default=layer(streams={"orders": own, "plain": {}})))
    assert refused.id == "kafka_layer.E003"
    assert refused.obj == "CHANNEL_LAYERS['default'], streams['orders']"
    assert 'No such configuration property: "nonsense"' in refused.msg


def test_encryption_with_cryptography_passes(found: Any) -> None:
    importlib.import_module("cryptography.fernet")

    assert found(default=layer(symmetric_encryption_keys=["k"])) == []


@pytest.mark.parametrize(
    ("config", "clients", "said", "hint"),
    [
        (
            {"producer_config": {"nonsense": 1}},
            "producer",
            'No such configuration property: "nonsense"',
            "Correct client_config or producer_config.",
        ),
        (
            {"consumer_config": {"fetch.wait.max.ms": "soon"}},
            "consumer, worker consumer",
            "fetch.wait.max.ms",
            "Correct client_config or consumer_config.",
        ),
        (
            {"admin_config": {"security.protocol": "tls"}},
            "admin client",
            "security.protocol",
            "Correct client_config or admin_config.",
        ),
        (
            {"client_config": {"security.protocol": "ssl", "ssl.ca.location": "/no/such/file"}},
            "producer, consumer, worker consumer, admin client",
            "ssl.ca.location failed",
            "Correct client_config.",
        ),
        (
            {"producer_config": {"max.in.flight": 6}},
            "producer",
            "`max.in.flight` must be set <= 5",
            "Correct client_config or producer_config.",
        ),
    ],
)
def test_e003_librdkafka_refuses(
    found: Any, config: dict[str, Any], clients: str, said: str, hint: str
) -> None:
    message = only(found(default=layer(**config)))

    assert message.id == "kafka_layer.E003"
    assert f"refuses the configuration of the {clients}: " in message.msg
    assert said in message.msg
    assert message.hint == hint


def test_a_password_is_never_shown(found: Any) -> None:
    secret = {"sasl.password": "hunter2", "ssl.key.pem": "hunter2", "security.protocol": "ssl"}

    messages = found(default=layer(client_config=secret))

    assert messages
    assert "hunter2" not in str(messages)


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ({"default": {"BACKEND": "kafka_layer.Layer"}}, '"kafka_layer.Layer" cannot be imported'),
        ({"default": {"BACKEND": "nowhere.Layer"}}, "No module named 'nowhere'"),
        ({"default": {"BACKEND": "kafka_layer.layer.run_in_loop"}}, "is no class"),
        ({"default": {}}, "It has no BACKEND"),
        ({"default": "kafka"}, "must be a dict of aliases to dicts"),
        ([], "must be a dict of aliases to dicts"),
    ],
)
def test_e004_no_backend(settings: Any, layers: Any, problem: str) -> None:
    settings.CHANNEL_LAYERS = layers

    message = only(check_settings())

    assert message.id == "kafka_layer.E004"
    assert problem in message.msg
    assert KAFKA in str(message.hint)


def test_e004_does_not_hide_the_other_layers(found: Any) -> None:
    messages = found(typo={"BACKEND": "nowhere.Layer"}, default=layer(prefix=""))

    assert [each.id for each in messages] == ["kafka_layer.E004", "kafka_layer.E001"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("message.timestamp.type", "CreateTime", "lets the clocks of all senders decide"),
        ("retention.ms", -1, "keeps every message for ever"),
        ("message.timestamp.type", None, "lets the clocks of all senders decide"),
        ("retention.bytes", 1_000_000, "delete messages that have not expired"),
    ],
)
def test_w001_risky_topic_configs(found: Any, name: str, value: object, said: str) -> None:
    message = only(
        found(
            default=layer(
                topics={"ack": {"config": {name: value}}},
                worker_channels={"mail": {"config": {name: value}}, "fax": {}},
            )
        )
    )

    assert message.id == "kafka_layer.W001"
    shown = "the broker's default" if value is None else value
    assert message.msg.startswith(f"{name}={shown} (topics['ack'], worker_channels['mail']) ")
    assert said in message.msg
    assert str(message.hint).startswith("Remove it")


@pytest.mark.parametrize("name", ["cleanup.policy", "retention.ms", "retention.bytes"])
def test_topic_configs_that_may_well_be_left_to_the_broker(found: Any, name: str) -> None:
    assert found(default=layer(topics={"ack": {"config": {name: None}}})) == []


@pytest.mark.parametrize("retention", [359_000, 360_000, -1, None])
def test_w007_a_topic_that_keeps_too_little_for_a_recovery(
    found: Any, retention: int | None
) -> None:
    topics = {"send-user": {"config": {"retention.ms": retention}}}
    messages = [each for each in found(default=layer(topics=topics)) if each.id.endswith("W007")]
    assert len(messages) == (retention == 359_000)
    if messages:
        assert "359000 for send-user, shorter than recovery_window and expiry (360 s)" in str(
            messages[0].msg
        )


def test_w002_two_layers_on_the_same_topics(found: Any) -> None:
    message = only(
        found(
            default=layer(bootstrap_servers="a:1,b:1"),
            second=layer(bootstrap_servers="b:1,c:1"),
            third=layer(bootstrap_servers="c:2"),
        )
    )

    assert message.id == "kafka_layer.W002"
    assert message.obj == "CHANNEL_LAYERS['second']"
    assert "the same topics as CHANNEL_LAYERS['default']: prefix 'channels' on b:1" in message.msg
    assert "a prefix of its own" in str(message.hint)


@pytest.mark.parametrize(
    ("apps", "right"),
    [
        (["kafka_layer", "channels"], True),
        (["daphne", "kafka_layer", "django.contrib.auth", "channels"], True),
        (["channels", "kafka_layer"], False),
        (["channels", "django.contrib.contenttypes", "kafka_layer"], False),
        (["kafka_layer"], True),
    ],
)
def test_w005_the_runworker_of_channels(settings: Any, apps: list[str], right: bool) -> None:
    settings.INSTALLED_APPS = [each for each in apps if "." not in each]
    settings.CHANNEL_LAYERS = {"default": layer()}

    found = check_apps()

    if right:
        assert found == []
    else:
        assert only(found).id == "kafka_layer.W005"
        assert 'Put "kafka_layer" before "channels"' in str(only(found).hint)


def test_w005_is_for_projects_with_a_kafka_layer(settings: Any) -> None:
    settings.INSTALLED_APPS = ["channels", "kafka_layer"]
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

    assert check_apps() == []


def test_w003_a_property_without_effect(found: Any) -> None:
    message = only(found(default=layer(producer_config={"fetch.wait.max.ms": 5})))

    assert message.id == "kafka_layer.W003"
    assert "of the producer: " in message.msg
    assert "fetch.wait.max.ms is a consumer property and will be ignored" in message.msg
    assert "consumer_config" in str(message.hint)


def test_w003_credentials_that_nobody_uses(found: Any) -> None:
    sasl = {"sasl.mechanism": "PLAIN", "sasl.username": "u", "sasl.password": "p"}

    message = only(found(default=layer(client_config=sasl)))

    assert message.id == "kafka_layer.W003"
    assert "`security.protocol` is not configured for SASL" in message.msg


PLAIN = {
    "security.protocol": "sasl_plaintext",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "u",
    "sasl.password": "hunter2",
}


def test_w004_credentials_in_clear(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(client_config=PLAIN)}

    message = only(check_cleartext_credentials())

    assert message.id == "kafka_layer.W004"
    assert "sends the credentials to kafka:9092 in clear" in message.msg
    assert "hunter2" not in str(message)
    assert "SASL_SSL" in str(message.hint)


def test_w004_credentials_of_a_stream_in_clear(settings: Any) -> None:
    registry = {"url": "http://u:hunter2@registry:8081"}
    streams = {
        "theirs": {"bootstrap_servers": "other:9092", "client_config": PLAIN},
        "typed": {"value": "avro", "schema_registry": registry},
        "near": {"value": "avro", "schema_registry": {"url": "http://u:p@localhost:8081"}},
        "open": {"value": "avro", "schema_registry": {"url": "http://registry:8081"}},
    }
    settings.CHANNEL_LAYERS = {"default": layer(streams=streams)}

    found = check_cleartext_credentials()

    assert {each.obj: each.msg.split()[-3] for each in found} == {
        "CHANNEL_LAYERS['default'], streams['theirs']": "other:9092",
        "CHANNEL_LAYERS['default'], streams['typed']": "registry",
    }
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    "config",
    [
        {"client_config": PLAIN, "bootstrap_servers": "localhost:1,127.0.0.1:1,[::1]:1"},
        {"client_config": {**PLAIN, "security.protocol": "SASL_SSL"}},
        {"client_config": {**PLAIN, "sasl.mechanism": "SCRAM-SHA-512"}},
        {},
    ],
    ids=["loopback", "tls", "scram", "none"],
)
def test_w004_is_silent(settings: Any, config: dict[str, Any]) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(**config)}

    assert check_cleartext_credentials() == []


def test_w004_is_for_deployments_only(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(client_config=PLAIN)}

    assert run_checks(tags=[TAG]) == []
    deploy = run_checks(tags=[TAG], include_deployment_checks=True)
    assert "kafka_layer.W004" in [each.id for each in deploy]


def test_w006_the_default_prefix_on_brokers_of_other_hosts(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer()}

    assert run_checks(tags=[TAG]) == []
    message = only(check_prefixes())
    assert message.id == "kafka_layer.W006"
    assert "prefix is 'channels', the default" in message.msg
    assert message in run_checks(tags=[TAG], include_deployment_checks=True)


@pytest.mark.parametrize(
    "config",
    [{"prefix": "shop-staging"}, {"bootstrap_servers": "localhost:9092,127.0.0.1:9093"}],
    ids=["own prefix", "loopback"],
)
def test_w006_is_silent(settings: Any, config: dict[str, Any]) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(**config)}

    assert check_prefixes() == []


def test_w006_is_silent_about_layers_in_memory(settings: Any) -> None:
    memory = "kafka_layer.testing.InMemoryKafkaChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": memory, "CONFIG": {}}}

    assert check_prefixes() == []


def test_layers_in_memory_have_no_clients_to_check(found: Any) -> None:
    memory = "kafka_layer.testing.InMemoryKafkaChannelLayer"

    assert found(default={"BACKEND": memory, "CONFIG": {"admin_config": {"foo": 1}}}) == []
    assert only(found(default={"BACKEND": memory, "CONFIG": {"prefix": ""}})).id == (
        "kafka_layer.E001"
    )


def test_nobody_is_contacted_and_nothing_is_left_running(found: Any) -> None:
    asked = threading.Event()

    def give_token(_: str) -> tuple[str, float]:
        asked.set()
        return "token", time.time() + 60

    threads = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as broker:
        broker.setblocking(False)
        servers = f"127.0.0.1:{broker.getsockname()[1]}"
        messages = found(
            default=layer(
                bootstrap_servers=servers,
                client_config={
                    "security.protocol": "sasl_plaintext",
                    "sasl.mechanism": "OAUTHBEARER",
                    "oauth_cb": give_token,
                },
            ),
            other=layer(bootstrap_servers=servers, prefix="other"),
        )

        assert messages == []
        with pytest.raises(BlockingIOError):
            broker.accept()
    assert not asked.is_set()
    assert threading.active_count() == threads
