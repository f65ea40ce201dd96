"""TLS, client certificates and passwords through ``client_config``, and what a wrong one says."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import BrokerUnavailable, ProduceFailed
from kafka_layer.layer import KafkaChannelLayer
from tests.support.certificates import Authority
from tests.support.layers import PARTITIONS, Layers, next_message
from tests.support.proxy import Proxy
from tests.support.secure import Rule, SecureBroker

Config = dict[str, Any]
Way = Callable[[SecureBroker, list[Rule]], Config]

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BACKEND = "kafka_layer.layer.KafkaChannelLayer"

# Far less than the tests give a start, and the command: no time-out ends it. Mostly it
# is a second.
IN_TIME = 15.0


def by_certificate(name: str, password: str = "") -> Way:
    def config(secure: SecureBroker, rules: list[Rule]) -> Config:
        secure.allow(name, rules)
        return secure.mtls(name, password)

    return config


def by_token(secure: SecureBroker, rules: list[Rule]) -> Config:
    secure.allow("by-token", rules)
    return secure.by_token(lambda _: secure.token("by-token"))


def by_password(mechanism: str) -> Way:
    return lambda secure, rules: secure.new_user(rules, mechanism)


WAYS: dict[str, Way] = {
    "TLS": lambda secure, rules: secure.tls(),
    "mutual TLS": by_certificate("by-certificate"),
    "mutual TLS, encrypted key": by_certificate("by-encrypted-key", "the key's password"),
    "PLAIN": by_password("PLAIN"),
    "SCRAM-SHA-256": by_password("SCRAM-SHA-256"),
    "SCRAM-SHA-512": by_password("SCRAM-SHA-512"),
    "OAUTHBEARER": by_token,
}


def everything(prefix: str) -> list[Rule]:
    topics = [("topic", f"{prefix}-*", each) for each in ("READ", "WRITE", "CREATE", "DELETE")]
    return [*topics, ("group", prefix, "DESCRIBE"), ("group", f"{prefix}-work.*", "READ")]


def untrusted(secure: SecureBroker, folder: Path) -> Config:
    other = Authority(folder, "another-authority")
    return secure.tls(**{"ssl.ca.location": str(other.certificate)})


WRONG: dict[str, tuple[Callable[[SecureBroker, Path], Config], str]] = {
    "authority": (untrusted, "certificate verify failed"),
    "another name in the certificate": (
        lambda secure, folder: under_another_name(secure.tls()),
        "certificate verify failed",
    ),
    "no certificate": (
        lambda secure, folder: secure.nobody(),
        # As the broker's Java says it.
        "alert (bad certificate|certificate required)",
    ),
    "no such user": (
        lambda secure, folder: secure.login("nobody", "hunter2"),
        "invalid credentials with SASL mechanism SCRAM-SHA-256",
    ),
    "password, PLAIN": (
        lambda secure, folder: secure.login("plain", "hunter2", "PLAIN"),
        "Invalid username or password",
    ),
    "password, SCRAM-SHA-512": (
        lambda secure, folder: with_password(secure.new_user(mechanism="SCRAM-SHA-512"), "hunter2"),
        "invalid credentials with SASL mechanism SCRAM-SHA-512",
    ),
}


def under_another_name(config: Config) -> Config:
    # The certificate is for the address 127.0.0.1.
    port = config["bootstrap_servers"].rpartition(":")[2]
    properties = {**config["client_config"], "broker.address.family": "v4"}
    return {"bootstrap_servers": f"localhost:{port}", "client_config": properties}


def with_password(config: Config, password: str) -> Config:
    return {**config, "client_config": {**config["client_config"], "sasl.password": password}}


MEND = "correct the credentials or certificates in client_config"


@pytest.fixture(params=list(WRONG))
def wrong(request: pytest.FixtureRequest, secure: SecureBroker, folder: Path) -> tuple[Config, str]:
    """CONFIG keywords that no broker lets in, and what is said of them."""
    make, said = WRONG[request.param]
    config = make(secure, folder)
    # Each attempt is a handshake, and five a second tell no more than one.
    pauses = dict.fromkeys(("reconnect.backoff.ms", "reconnect.backoff.max.ms"), 1_000)
    return {**config, "client_config": {**config["client_config"], **pauses}}, said


async def messages_go_and_come(here: KafkaChannelLayer, there: KafkaChannelLayer) -> None:
    channel = await there.new_channel()

    await here.send(channel, {"n": 1})
    await here.group_add("room", channel)
    await here.group_send("room", {"n": 2})
    await here.send("jobs", {"n": 3})

    assert [await next_message(there, channel) for _ in range(2)] == [{"n": 1}, {"n": 2}]
    assert await next_message(there, "jobs") == {"n": 3}
    assert not there.stats().errors


async def topics_are_set_up() -> None:
    printed = io.StringIO()

    await asyncio.to_thread(call_command, "kafka_setup_topics", stdout=printed)

    assert printed.getvalue().count("created") == 6


@pytest.mark.parametrize("name", WAYS)
async def test_messages_go_and_come_and_topics_are_set_up(
    secure: SecureBroker, make_layer: Layers, prefix: str, settings: Any, name: str
) -> None:
    rules = everything(make_layer.prefix) + everything(prefix)
    config = WAYS[name](secure, rules)
    settings.CHANNEL_LAYERS = layers(config, prefix)

    courses = [topics_are_set_up()]
    # With a token that takes its time they go and come below: each client waits for a second.
    if name != "OAUTHBEARER":
        courses.append(messages_go_and_come(make_layer(**config), make_layer(**config)))
    await asyncio.gather(*courses)


async def test_a_first_use_and_the_command_say_that_nobody_is_let_in(
    make_layer: Layers, prefix: str, settings: Any, wrong: tuple[Config, str]
) -> None:
    config, said = wrong
    settings.CHANNEL_LAYERS = layers(config, prefix)
    await asyncio.gather(
        a_first_use_says_so(make_layer(**config), said), setting_up_topics_says_so(said)
    )


async def a_first_use_says_so(layer: KafkaChannelLayer, said: str) -> None:
    started = time.monotonic()

    with pytest.raises(BrokerUnavailable) as caught:
        await layer.new_channel()

    assert time.monotonic() - started < IN_TIME
    error = str(caught.value)
    servers = layer.config.bootstrap_servers
    assert error.startswith(f"The Kafka brokers {servers} do not let this")
    assert re.search(said, error)
    assert MEND in error
    assert "hunter2" not in error


async def setting_up_topics_says_so(said: str) -> None:
    started = time.monotonic()

    with pytest.raises(CommandError) as caught:
        await asyncio.to_thread(call_command, "kafka_setup_topics", "--timeout", "30")

    assert time.monotonic() - started < IN_TIME
    assert "do not let this client in" in str(caught.value)
    assert re.search(said, str(caught.value))
    assert MEND in str(caught.value)


@pytest.mark.parametrize("wrong", ["no certificate", "no such user"], indirect=True)
async def test_who_only_sends_reads_it_in_the_log(
    make_layer: Layers, wrong: tuple[Config, str], caplog: pytest.LogCaptureFixture
) -> None:
    config, said = wrong
    layer = make_layer(**config, expiry=0.5, await_produce=True)

    with caplog.at_level(logging.WARNING, "kafka_layer"), pytest.raises(ProduceFailed) as caught:
        await layer.group_send("room", {"n": 1})

    assert "the brokers do not let this client in" in str(caught.value)
    assert re.search(said, str(caught.value))
    warnings = [each.getMessage() for each in caplog.records if each.name == "kafka_layer"]
    assert any(MEND in each and re.search(said, each) for each in warnings)
    assert not any("No Kafka broker" in each for each in warnings)


async def test_a_connection_that_breaks_is_no_refusal(
    secure: SecureBroker, make_layer: Layers
) -> None:
    make_layer.timings = Timings(start=1.0)
    config = secure.user(0, [])
    with Proxy() as proxy:
        proxy.target = int(config["bootstrap_servers"].rpartition(":")[2])
        proxy.cut()
        layer = make_layer(**{**config, "bootstrap_servers": f"127.0.0.1:{proxy.port}"})
        with pytest.raises(BrokerUnavailable, match=r"No Kafka broker of .* answered"):
            await layer.new_channel()


@pytest.mark.parametrize("file", ["password.py", "certificate.py"])
async def test_the_settings_of_the_page_work(
    secure: SecureBroker, make_layer: Layers, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    rules = everything(make_layer.prefix)
    if file == "password.py":
        right = secure.new_user(rules, "SCRAM-SHA-512")
    else:
        secure.allow("by-the-page", rules)
        right = secure.mtls("by-the-page", "the key's password")
    for prop, value in right["client_config"].items():
        if prop in VARIABLES:
            monkeypatch.setenv(VARIABLES[prop], value)

    layer = make_layer(**{**right, "client_config": settings_of_the_page(file)})
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})

    assert await next_message(layer, channel) == {"n": 1}


async def test_a_token_that_takes_its_time_is_fetched_once_for_all_clients(
    secure: SecureBroker, make_layer: Layers
) -> None:
    calls: list[float] = []

    def slow(_: str) -> tuple[str, float]:
        calls.append(time.monotonic())
        time.sleep(
            2.3
        )  # Three clients that are made one after another took 6.9 s of a start's 4.5.
        return secure.token("slow-token")

    secure.allow("slow-token", everything(make_layer.prefix))
    make_layer.timings = Timings(start=Timings.start + 0.001)  # that of users, not of slow machines
    here, there = (make_layer(**secure.by_token(slow)) for _ in range(2))
    began = time.monotonic()
    await there.new_channel()
    took = time.monotonic() - began
    await messages_go_and_come(here, there)
    assert len(calls) == 1
    assert 2.3 <= took < IN_TIME


VARIABLES = {
    "ssl.ca.location": "KAFKA_CA_FILE",
    "sasl.username": "KAFKA_USER",
    "sasl.password": "KAFKA_PASSWORD",
    "ssl.certificate.location": "KAFKA_CERTIFICATE_FILE",
    "ssl.key.location": "KAFKA_KEY_FILE",
    "ssl.key.password": "KAFKA_KEY_PASSWORD",
}


def settings_of_the_page(file: str) -> Config:
    """Run one of the page's files; returns the ``client_config`` in it."""
    found = re.search(rf'^```python title="{file}"\n(.*?)^```$', PAGE.read_text(), re.M | re.S)
    assert found, f"{PAGE} has no {file}"
    names: dict[str, Any] = {}
    exec(found[1], names)
    config: Config = names["CLIENT_CONFIG"]
    return config


async def test_it_works_once_the_password_is_right(
    secure: SecureBroker, make_layer: Layers
) -> None:
    config = secure.new_user(everything(make_layer.prefix))
    layer = make_layer(**with_password(config, "not yet the password"))
    with pytest.raises(BrokerUnavailable, match="do not let this client in"):
        await layer.new_channel()

    secure.set_password(config["client_config"]["sasl.username"], "not yet the password")

    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    assert await next_message(layer, channel) == {"n": 1}
    assert layer.stats().state == "connected"


def layers(config: Config, prefix: str) -> dict[str, Any]:
    own = {**config, "prefix": prefix, "default_partitions": PARTITIONS}
    return {"default": {"BACKEND": BACKEND, "CONFIG": own}}
