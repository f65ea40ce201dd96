"""librdkafka properties that settings may carry, and those that would break a promise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from django.core.exceptions import ImproperlyConfigured

__all__ = ["FORBIDDEN", "Properties", "read_properties", "require_timeout_within"]

_OWN = "the layer sets it itself"
_TOPICS_SETTINGS = "a broker would make up topics with other settings than yours"
FORBIDDEN: Mapping[str, Mapping[str, str]] = {
    "client_config": {
        "bootstrap.servers": "use the keyword bootstrap_servers",
        "metadata.broker.list": "use the keyword bootstrap_servers",
        "test.mock.num.brokers": "each client would get a broker of its own; "
        "use kafka_layer.testing.EmbeddedBroker",
        "error_cb": "the layer needs it to see failing brokers",
        "logger": "the layer logs to 'kafka_layer'",
        "allow.auto.create.topics": _TOPICS_SETTINGS,
        "default.topic.config": "name its properties in producer_config or consumer_config",
    },
    "producer_config": {
        "acks": "nothing may be lost when a broker dies, so it stays 'all'",
        "request.required.acks": "nothing may be lost when a broker dies, so it stays 'all'",
        "enable.idempotence": "messages would arrive twice or out of order",
        "partitioner": "all senders must map a key to one partition (murmur2_random)",
        "transactional.id": "the layer does not use transactions",
        "on_delivery": "connect to kafka_layer.signals.produce_failed",
        "dr_cb": "connect to kafka_layer.signals.produce_failed",
        "delivery.report.only.error": "await_produce needs every report",
        "message.max.bytes": "the topics' max.message.bytes decides; set that in topics",
    },
    "consumer_config": {
        "group.id": "every server reads every partition of the broadcast topics",
        "group.protocol": "use the keyword worker_group_protocol",
        "enable.auto.commit": "positions are the layer's own",
        "enable.auto.offset.store": "positions are the layer's own",
        "auto.offset.reset": "a position that is gone is resolved and reported by the layer",
        "enable.partition.eof": _OWN,
        "on_commit": _OWN,
        "group.instance.id": "all servers would claim the same place in a consumer group",
        "partition.assignment.strategy": "shares of worker channels must move one at a time "
        "(cooperative-sticky)",
    },
    "admin_config": {},
}
"""The properties that each keyword must not set, and why; client_config must set none of them."""


class Properties(dict[str, Any]):
    """librdkafka properties whose repr, and so an error page, shows no values."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self)}>"


def read_properties(name: str, value: object, where: str | None = None) -> Mapping[str, Any]:
    """Read a keyword that carries librdkafka properties.

    Args:
        name: The keyword: ``client_config``, ``producer_config`` …
        value: The keyword's value; right is a mapping of property names to values.
        where: What errors call it, if it does not stand in CONFIG itself.

    Returns:
        A read-only copy that shows no values.

    Raises:
        ImproperlyConfigured: For a property that the layer refuses, or a value of a type that
            librdkafka does not take.
    """
    where = where or name
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value):
        raise ImproperlyConfigured(
            f"{where} must be a dict of librdkafka property names to values."
        )
    own = FORBIDDEN[name]
    shared = FORBIDDEN["client_config"]
    for group in FORBIDDEN if name == "client_config" else (name,):
        own = {**own, **FORBIDDEN[group]}
    for prop in value:
        reason = own.get(prop) or shared.get(prop)
        if reason:
            raise ImproperlyConfigured(f"{where} must not set {prop!r}: {reason}. Remove it.")
        _require_property_value(f"{where}[{prop!r}]", value[prop])
    return MappingProxyType(Properties(value))


def _require_property_value(where: str, value: object) -> None:
    # No error shows the value: it may be a password.
    if value is None:
        raise ImproperlyConfigured(
            f"{where} is None; set it, or remove it for librdkafka's default. "
            "Perhaps an environment variable is missing."
        )
    if where.endswith("_cb']"):
        if not callable(value) or inspect.iscoroutinefunction(value):
            found = "coroutine function" if callable(value) else type(value).__name__
            raise ImproperlyConfigured(f"{where} is a {found}; it must be a plain function.")
        return
    if not isinstance(value, (str, int, float)) and not callable(value):
        raise ImproperlyConfigured(
            f"{where} is a {type(value).__name__}; it must be a str, a number, a bool, or, for "
            "a callback, a function."
        )


def require_timeout_within(name: str, properties: Mapping[str, Any], expiry: float) -> None:
    """Check that no record waits in the producer for longer than ``expiry``.

    Args:
        name: The keyword that carries the properties.
        properties: Its value.
        expiry: Seconds.

    Raises:
        ImproperlyConfigured: If message.timeout.ms is more than that.
    """
    for prop in ("message.timeout.ms", "delivery.timeout.ms"):
        value = properties.get(prop)
        if value is not None and not 0 < _number(value) <= expiry * 1000:
            raise ImproperlyConfigured(
                f"{name}[{prop!r}] is {value!r}; it must be from 1 to {expiry * 1000:.0f}, that is "
                f"expiry ({expiry} s): what waits for longer has expired, and a broker would date "
                "it as new. Lower it, or raise expiry."
            )


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("nan")
