"""Passwords and keys are shown nowhere: not in logs, reprs, errors, checks or commands' output."""

from __future__ import annotations

import io
import logging
import secrets
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.views.debug import ExceptionReporter

from kafka_layer.config.settings import LayerConfig
from kafka_layer.exceptions import KafkaLayerError
from kafka_layer.layer import KafkaChannelLayer
from tests.support.inspect import backplane_of, server_of
from tests.support.layers import PARTITIONS, Layers, next_message
from tests.support.secure import SecureBroker
from tests.support.waiting import wait_until_async

BACKEND = "kafka_layer.layer.KafkaChannelLayer"

KEY = f"sentinel-key-{secrets.token_hex(8)}"
WRONG = f"sentinel-wrong-{secrets.token_hex(8)}"
KEY_PASSWORD = f"sentinel-key-password-{secrets.token_hex(8)}"


class Said:
    """All that was said, by whoever said it."""

    def __init__(self, log: io.StringIO) -> None:
        self._log = log
        self._parts: list[str] = []

    def add(self, *parts: object) -> None:
        """Note what somebody would see: a text, a repr, or an error with its traceback."""
        for part in parts:
            if isinstance(part, BaseException):
                self._parts += traceback.format_exception(part)
                self._parts.append(repr(part.args))
            else:
                self._parts += [str(part), repr(part)]

    def everything(self) -> str:
        """Return all of it."""
        return self._log.getvalue() + "\n".join(self._parts)


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """Keeps all that is logged at all levels, by librdkafka as well."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(args)s"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    keeper = Said(log)
    yield keeper
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.fixture
def none_in(said: Said, capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Requires that no secret is in what was said, and that something was."""

    def require(*hidden: str, expected: str) -> None:
        text = said.everything() + "".join(capfd.readouterr())
        assert expected in text
        found = [each for each in (*hidden, KEY, WRONG, KEY_PASSWORD) if each in text]
        assert not found

    return require


def with_password(config: dict[str, Any], password: str) -> dict[str, Any]:
    return {**config, "client_config": {**config["client_config"], "sasl.password": password}}


def password_of(config: dict[str, Any]) -> str:
    password = config["client_config"]["sasl.password"]
    assert len(password) > 10
    return str(password)


def describe(said: Said, layer: KafkaChannelLayer) -> None:
    """Note how a layer and its parts show themselves."""
    said.add(layer, layer.config, layer.stats(), vars(layer))
    for part in (layer, server_of(layer), backplane_of(layer)):
        said.add(part, *vars(part).values())


async def test_of_a_layer_at_work(
    secure: SecureBroker, make_layer: Layers, said: Said, none_in: Callable[..., None]
) -> None:
    prefix = make_layer.prefix
    user = secure.user(
        0, [("topic", f"{prefix}-*", each) for each in ("READ", "WRITE", "CREATE", "DELETE")]
    )
    layer = make_layer(**user, symmetric_encryption_keys=[KEY])
    describe(said, layer)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    assert await next_message(layer, channel) == {"n": 1}
    # What goes wrong on the way: a record with another key, one without, a group it may not see.
    stranger = make_layer(symmetric_encryption_keys=[WRONG])
    await stranger.group_send("room", {"n": 2})
    await make_layer().group_send("room", {"n": 3})
    await wait_until_async(lambda: layer.stats().dropped.get("decrypt") == 2, "both to be dropped")
    with pytest.raises(KafkaLayerError) as forbidden:
        await layer.receive("jobs-of-nobody")
    said.add(forbidden.value)
    describe(said, layer)
    await layer.close()
    none_in(password_of(user), expected="symmetric_encryption_keys decrypts it")


async def test_of_one_that_is_not_let_in(
    secure: SecureBroker, make_layer: Layers, said: Said, none_in: Callable[..., None]
) -> None:
    config = with_password(secure.user(0, []), WRONG)
    layer = make_layer(**config, symmetric_encryption_keys=[KEY], expiry=0.5, await_produce=True)
    for attempt in (layer.new_channel(), layer.group_send("room", {"n": 1})):
        with pytest.raises(KafkaLayerError) as refused:
            await attempt
        said.add(refused.value)
    describe(said, layer)
    none_in(expected="do not let this client in")


@pytest.mark.parametrize("command", ["kafka_setup_topics", "kafka_status"])
def test_of_commands(
    secure: SecureBroker,
    prefix: str,
    settings: Any,
    said: Said,
    none_in: Callable[..., None],
    command: str,
) -> None:
    user = secure.user(
        0, [("topic", f"{prefix}-*", each) for each in ("READ", "WRITE", "CREATE", "DESCRIBE")]
    )
    for config in (user, with_password(user, WRONG)):
        own = {**config, "prefix": prefix, "symmetric_encryption_keys": [KEY]}
        own["default_partitions"] = PARTITIONS
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": own}}
        for options in ([], ["--json"]):
            output = io.StringIO()
            try:
                call_command(command, *options, stdout=output, stderr=output)
            except CommandError as error:
                said.add(error)
            said.add(output.getvalue())
    none_in(password_of(user), expected="do not let this client in")


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_config": {"sasl.password": WRONG, "no.such.property": "x"}},
        {"client_config": {"sasl.password": WRONG, "sasl.mechanism": "NONE"}},
        {"client_config": {"sasl.password": WRONG}, "producer_config": {"acks": "0"}},
        {"client_config": {"security.protocol": "SASL_PLAINTEXT", "sasl.password": WRONG}},
        {"client_config": {"sasl.pasword": WRONG}},
        {"client_config": {"ssl.key.pem": WRONG}},
        {"client_config": {"ssl.key.password": [WRONG]}},
        {"client_config": WRONG},
        {"producer_config": [WRONG]},
        {"symmetric_encryption_keys": WRONG},
        {"symmetric_encryption_keys": [KEY, None]},
        {"symmetric_encryption_keys": {KEY: WRONG}},
        {"symetric_encryption_keys": [KEY]},
        {"bootstrap_servers": f"user:{WRONG}@kafka:9092"},
        {"bootstrap_servers": [f"user:{WRONG}@kafka:9092"]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_of_settings_that_cannot_work(
    settings: Any, said: Said, none_in: Callable[..., None], wrong: dict[str, Any]
) -> None:
    config = {"bootstrap_servers": "localhost:9092", **wrong}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
    try:
        said.add(LayerConfig.from_keywords(**config))
    except ImproperlyConfigured as error:
        said.add(error)
    for found in checks.run_checks(tags=["kafka_layer"], include_deployment_checks=True):
        said.add(found, found.msg, found.hint)
    for command in ("kafka_setup_topics", "kafka_status"):
        with pytest.raises(CommandError) as failed:
            call_command(command, "--timeout", "0.1")
        said.add(failed.value)
    none_in(expected="kafka_layer")


def test_of_a_private_key_that_is_encrypted(
    secure: SecureBroker, settings: Any, said: Said, none_in: Callable[..., None]
) -> None:
    right = secure.mtls("with-a-password", KEY_PASSWORD)
    wrong = {**right["client_config"], "ssl.key.password": WRONG}
    for config in (right, {**right, "client_config": wrong}):
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
        said.add(*checks.run_checks(tags=["kafka_layer"]))
        said.add(LayerConfig.from_keywords(**config))
    none_in(expected="kafka_layer.E003")


@pytest.mark.parametrize(
    ("properties", "use"),
    [
        ({}, lambda layer: layer.send_sync("not a name", {})),
        # The first use makes the clients, in another thread.
        ({"sasl.mechanism": "NONE"}, lambda layer: layer.group_send_sync("room", {})),
        ({"ssl.ca.location": "/no/such/file"}, lambda layer: layer.group_send_sync("room", {})),
    ],
)
def test_of_djangos_error_pages(
    settings: Any,
    make_layer: Layers,
    said: Said,
    none_in: Callable[..., None],
    properties: dict[str, str],
    use: Callable[[KafkaChannelLayer], object],
) -> None:
    hidden = {"sasl.password": WRONG, "ssl.key.password": KEY_PASSWORD}
    own = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "shop"}
    config = {
        "bootstrap_servers": "localhost:9092",
        "symmetric_encryption_keys": [KEY],
        "client_config": {**own, **hidden, **properties},
    }
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
    for debug in (True, False):
        settings.DEBUG = debug
        said.add(page_of(make_layer(**config), use))
    none_in(expected="sasl.password")


def page_of(layer: KafkaChannelLayer, use: Callable[[KafkaChannelLayer], object]) -> str:
    """Return Django's page of the error that a use of a layer raises, all variables on it."""
    with pytest.raises((TypeError, ImproperlyConfigured)) as raised:
        use(layer)
    reporter = ExceptionReporter(None, raised.type, raised.value, raised.tb)
    return reporter.get_traceback_html() + reporter.get_traceback_text()


@pytest.mark.parametrize(
    "name", ["client_config", "producer_config", "consumer_config", "admin_config"]
)
def test_of_properties(name: str) -> None:
    config = LayerConfig.from_keywords(
        bootstrap_servers="localhost:9092", **{name: {"sasl.password": WRONG}}
    )
    made = getattr(config, name)
    assert made["sasl.password"] == WRONG
    assert WRONG not in repr(made) + str(made) + f"{made}"
    assert "sasl.password" in repr(made)


def test_what_is_looked_at_would_show_them(said: Said, none_in: Callable[..., None]) -> None:
    logging.getLogger("kafka_layer").debug("%s", WRONG)
    with pytest.raises(AssertionError):
        none_in(expected="")
