"""Readers of CONFIG keywords: each checks one value and returns it in the form the layer uses."""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard, cast

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..wire.codec import Serializer
from ..wire.encryption import Encryption
from .librdkafka import read_properties

__all__ = [
    "EXTRA_KEYWORDS",
    "FROM_CHANNELS_REDIS",
    "READERS",
    "read_boolean",
    "read_integer",
    "read_one_of",
    "read_partitions",
    "read_replication",
    "read_seconds",
    "read_servers",
    "reject_unknown",
    "wrong_value",
]

_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,100}")

_MAX_EXPIRY = 2_147_483
"""Seconds; librdkafka's message.timeout.ms is an int of 32 bits."""

_LEAST_RECENT_BYTES = 1024 * 1024

# The limits of librdkafka's admin client.
_MAX_PARTITIONS = 100_000
_MAX_REPLICAS = 10_000

EXTRA_KEYWORDS = frozenset(
    {"default_partitions", "default_replication_factor", "default_topic_config"}
)
"""Keywords that only set defaults of other settings; ``LayerConfig`` has no field for them."""

FROM_CHANNELS_REDIS = {
    "hosts": "that is channels_redis' keyword; name the Kafka brokers in bootstrap_servers.",
    "random_prefix_length": "that is channels_redis' keyword; remove it.",
    "on_disconnect": "connect a receiver to kafka_layer.signals.connection_changed instead.",
    "on_reconnect": "connect a receiver to kafka_layer.signals.connection_changed instead.",
}
"""Keywords of channels_redis that this layer does not have, and what to do instead."""


def reject_unknown(what: str, name: object, known: Iterable[str], hint: str | None = None) -> None:
    """Raise ImproperlyConfigured for a name that is none of ``known``.

    Args:
        what: The kind of name, for the message.
        name: The unknown name.
        known: The known names.
        hint: What to do; None suggests the most similar name, or lists all.
    """
    # Imported for errors alone.
    import difflib

    close = difflib.get_close_matches(str(name), known, n=1)
    mend = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}."
    raise ImproperlyConfigured(f"Unknown {what} {name!r}; {hint or mend}")


def wrong_value(name: str, value: object, wanted: str) -> ImproperlyConfigured:
    """Return the error for a value other than ``wanted``."""
    return ImproperlyConfigured(f"{name} is {value!r}; it must be {wanted}.")


def read_integer(name: str, value: object) -> int:
    """Return a value that is an integer above 0.

    Raises:
        ImproperlyConfigured: If it is not.
    """
    if not _is_integer(value) or value < 1:
        raise wrong_value(name, value, "an integer of 1 or more")
    return value


def read_partitions(name: str, value: object) -> int:
    """Return a value that is a number of partitions.

    Raises:
        ImproperlyConfigured: If it is not.
    """
    if not _is_integer(value) or not 1 <= value <= _MAX_PARTITIONS:
        raise wrong_value(name, value, f"an integer from 1 to {_MAX_PARTITIONS}")
    return value


def read_replication(name: str, value: object) -> int:
    """Return a value that is a replication factor; -1 means the broker's default.

    Raises:
        ImproperlyConfigured: If it is not.
    """
    if not _is_integer(value) or not (value == -1 or 1 <= value <= _MAX_REPLICAS):
        raise wrong_value(name, value, "an integer of 1 or more, or -1 for the broker's default")
    return value


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def read_seconds(name: str, value: object, longest: float = 1e9) -> float:
    """Return a value that is a number of seconds, from 0.1 to ``longest``.

    Raises:
        ImproperlyConfigured: If it is not.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0.1 <= value <= longest
    ):
        raise wrong_value(name, value, f"a number of seconds from 0.1 to {longest:.0f}")
    return value


def _read_expiry(name: str, value: object) -> float:
    return read_seconds(name, value, _MAX_EXPIRY)


def _read_recent_bytes(name: str, value: object) -> int:
    if not _is_integer(value) or value < _LEAST_RECENT_BYTES:
        raise wrong_value(name, value, f"an integer of {_LEAST_RECENT_BYTES} (1 MiB) or more")
    return value


def read_boolean(name: str, value: object) -> bool:
    """Return a value that is True or False.

    Raises:
        ImproperlyConfigured: If it is not.
    """
    if not isinstance(value, bool):
        raise wrong_value(name, value, "True or False")
    return value


def _read_switch_of(extra: str, module: str) -> Callable[[str, object], bool]:
    """Return a reader of True or False; True needs a module, which an extra installs."""

    def read(name: str, value: object) -> bool:
        on = read_boolean(name, value)
        if on:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ImproperlyConfigured(
                    f"{name} is True, and {error.name or module} is not installed. "
                    f"Run: pip install 'kafka-layer[{extra}]'"
                ) from None
        return on

    return read


def read_one_of(*choices: str) -> Any:
    """Return a function of a name and a value that returns the value if it is a choice.

    It raises ImproperlyConfigured if it is none.
    """

    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise wrong_value(name, value, " or ".join(map(repr, choices)))
        return value

    return read


def read_servers(name: str, value: object) -> str:
    """Return a value that names brokers, as a text with commas.

    Raises:
        ImproperlyConfigured: If one of them is no host with a port.
    """
    wanted = "'host:port', several separated by commas, or a list of them"
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)) or not value:
        raise wrong_value(name, value, wanted)
    servers = []
    for server in value:
        if isinstance(server, str) and "@" in server:
            # The message does not repeat the value: it may hold a password.
            raise ImproperlyConfigured(
                f"{name} has a server with an '@'; each must be {wanted}. Credentials belong "
                "into client_config: sasl.username and sasl.password."
            )
        match = _SERVER.fullmatch(server.strip()) if isinstance(server, str) else None
        if match is None or not 0 < int(match[2]) < 65536:
            raise ImproperlyConfigured(f"{name} has {server!r}; each server must be {wanted}.")
        servers.append(match[0])
    return ",".join(servers)


def _read_prefix(name: str, value: object) -> str:
    if not isinstance(value, str) or not _PREFIX.fullmatch(value) or value in (".", ".."):
        raise wrong_value(
            name,
            value,
            "1 to 100 ASCII letters, digits, periods, hyphens or underscores, as in a topic name",
        )
    return value


def _read_channel_capacity(name: str, value: object) -> tuple[tuple[re.Pattern[str], int], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise wrong_value(name, value, "a dict of channel name patterns to capacities")
    return tuple(
        (_read_pattern(name, pattern), read_integer(f"{name}[{pattern!r}]", capacity))
        for pattern, capacity in value.items()
    )


def _read_pattern(name: str, value: object) -> re.Pattern[str]:
    if isinstance(value, str):
        return re.compile(fnmatch.translate(value))
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        return value
    raise ImproperlyConfigured(
        f"{name} has the key {value!r}; each must be a pattern such as 'specific.*', "
        "or a compiled regular expression of str."
    )


def _read_keys(name: str, value: object) -> tuple[bytes, ...]:
    if value is None:
        return ()
    wanted = "a list of non-empty str or bytes; the first encrypts, all decrypt"
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
        raise ImproperlyConfigured(f"{name} must be {wanted}.")
    keys = []
    for key in value:
        if not isinstance(key, (str, bytes)) or not key:
            raise ImproperlyConfigured(f"{name} has an entry that is no key; it must be {wanted}.")
        keys.append(key.encode() if isinstance(key, str) else key)
    Encryption(keys)  # raises where cryptography is not installed
    return tuple(keys)


def _read_serializer(name: str, value: object) -> Serializer | None:
    wanted = "an object, a class or the dotted path of one, with the methods dumps and loads"
    if value is None:
        return None
    value = _imported(name, value, wanted)
    made = value() if isinstance(value, type) else value
    if not callable(getattr(made, "dumps", None)) or not callable(getattr(made, "loads", None)):
        raise wrong_value(name, value, wanted)
    return cast("Serializer", made)


def _read_access(name: str, value: object) -> Any:
    wanted = "a function of a request, or the dotted path of one, that tells whether it may see it"
    if value is None:
        return None
    value = _imported(name, value, wanted)
    if not callable(value):
        raise wrong_value(name, value, wanted)
    return value


def _imported(name: str, value: object, wanted: str) -> object:
    """Return what a dotted path names; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return import_string(value)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"{name} is {value!r}, which cannot be imported: {error}; it must be {wanted}."
        ) from None


READERS: Mapping[str, Any] = {
    "bootstrap_servers": read_servers,
    "prefix": _read_prefix,
    "expiry": _read_expiry,
    "group_expiry": read_seconds,
    "capacity": read_integer,
    "channel_capacity": _read_channel_capacity,
    "symmetric_encryption_keys": _read_keys,
    "serializer_format": read_one_of("msgpack", "json"),
    "serializer": _read_serializer,
    "await_produce": read_boolean,
    "ack_timeout": read_seconds,
    "overflow": read_one_of("raise", "block", "discard"),
    "auto_create_topics": read_boolean,
    "recovery_window": _read_expiry,
    "recent_bytes": _read_recent_bytes,
    "dashboard_access": _read_access,
    "unnamed_worker_channels": read_integer,
    "worker_group_protocol": read_one_of("classic", "consumer"),
    "client_config": read_properties,
    "producer_config": read_properties,
    "consumer_config": read_properties,
    "admin_config": read_properties,
    "metrics": _read_switch_of("prometheus", "prometheus_client"),
    "tracing": _read_switch_of("opentelemetry", "opentelemetry.trace"),
}
"""For each keyword that can be read alone: a function of its name and value."""
