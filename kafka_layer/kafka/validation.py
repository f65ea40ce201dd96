"""Lets librdkafka examine a layer's settings; contacts no broker."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from ..config.librdkafka import Properties
from ..config.settings import LayerConfig
from .errors import kafka_error, with_hint
from .properties import admin_properties, consumer_properties, producer_properties, work_properties

__all__ = ["Finding", "examine_clients"]


@dataclass(frozen=True)
class Finding:
    """One message of librdkafka about the properties of one client.

    Attributes:
        client: ``producer``, ``consumer``, ``worker consumer`` or ``admin client``.
        keyword: The CONFIG keyword for this client alone; the cause may also be client_config.
        text: librdkafka's words.
        refused: True if librdkafka refuses the client; False if a property has no effect.
    """

    client: str
    keyword: str
    text: str
    refused: bool


def examine_clients(config: LayerConfig) -> list[Finding]:
    """Make and drop one client of each kind; takes some milliseconds.

    librdkafka reads the files that properties name (certificates, keys) and asks for no token.

    Args:
        config: The layer's settings.

    Returns:
        librdkafka's refusals and warnings.
    """
    return [
        finding
        for client, keyword, make, properties in (
            ("producer", "producer_config", Producer, producer_properties(config)),
            ("consumer", "consumer_config", Consumer, consumer_properties(config)),
            ("worker consumer", "consumer_config", Consumer, work_properties(config, "-")),
            ("admin client", "admin_config", AdminClient, admin_properties(config)),
        )
        for finding in _examine(client, keyword, make, properties)
    ]


def _examine(
    client: str, keyword: str, make: Callable[..., Any], properties: Mapping[str, Any]
) -> list[Finding]:
    warnings = _Warnings("kafka_layer.validation")
    try:
        # A client without servers connects to none. poll() passes its log lines to the logger.
        made = make(Properties({**_offline(properties), "logger": warnings}))
        made.poll(0)
    except KafkaException as exception:
        said = with_hint(_PREAMBLE.sub("", kafka_error(exception).str().strip()), properties)
        return [Finding(client, keyword, said, refused=True)]
    except (TypeError, ValueError) as exception:
        return [Finding(client, keyword, str(exception), refused=True)]
    return [Finding(client, keyword, text, refused=False) for text in warnings.texts]


# Cut off, so that the same refusal of several clients becomes one finding.
_PREAMBLE = re.compile(r"^Failed to create [^:]+: ")


def _offline(properties: Mapping[str, Any]) -> Properties:
    return Properties(
        {
            name: value
            for name, value in properties.items()
            # With these a client's constructor asks for a token, and waits for it.
            if name not in ("bootstrap.servers", "oauth_cb")
            and not name.startswith("sasl.oauthbearer.")
        }
    )


class _Warnings(logging.Logger):
    """Keeps librdkafka's warnings about the configuration, and logs nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.texts: list[str] = []

    def handle(self, record: logging.LogRecord) -> None:
        # They read "CONFWARN [rdkafka#producer-1] [thrd:app]: Configuration property …".
        kind, _, rest = record.getMessage().partition(" ")
        text = rest.partition("]: ")[2]
        if kind == "CONFWARN" and not text.startswith("No `bootstrap.servers`"):
            self.texts.append(text)
