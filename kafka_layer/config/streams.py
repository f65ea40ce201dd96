"""The keyword ``streams``: Kafka's topics from outside the layer, and how they are read."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..streams.addresses import (
    Addresser,
    Filter,
    GroupFunction,
    GroupNames,
    UserFunction,
    UserKeys,
)
from ..streams.codecs import CODECS, OwnCodec, StreamCodec
from ..streams.record import StreamRecord
from ..streams.registry import REGISTRY_CODECS, Registry, RegistryCodec
from ..wire.names import CHANNEL_NAME, LONGEST_NAME
from ..wire.topics import Topic
from .keywords import read_boolean, read_one_of, read_servers, reject_unknown, wrong_value
from .librdkafka import Properties, read_properties

__all__ = ["STREAM_SETTINGS", "Start", "StreamSettings", "place_at", "read_streams"]

Start = Literal["latest", "earliest"] | datetime.timedelta | datetime.datetime
"""Where reading begins: at the end, at the beginning, so long ago, or at an aware time."""


def place_at(start: Start, now: float) -> Literal["latest", "earliest"] | datetime.datetime:
    """Return where reading begins at a moment.

    Args:
        start: As the settings or a caller say.
        now: The moment, in seconds since the epoch.

    Returns:
        The same, with a time in place of "so long ago". What lies before 1970, where the times of
        records begin, is the oldest record.
    """
    try:
        if isinstance(start, datetime.timedelta):
            start = datetime.datetime.fromtimestamp(now, datetime.timezone.utc) - start
        if isinstance(start, datetime.datetime) and start.timestamp() < 0:
            return "earliest"
    except OverflowError:
        return "earliest"
    return start


_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

STREAM_SETTINGS = frozenset(
    {
        *("topic", "group", "user", "type", "value", "key", "where", "start", "tombstone"),
        *("last_value", "on_error", "bootstrap_servers", "client_config", "schema_registry"),
        "worker_channel",
    }
)
"""The settings that a stream may have."""

_ONLY_OF_READERS = ("type", "where", "start", "tombstone", "last_value", "on_error")
"""Settings without effect if the records have no receiver."""

# Types of ASGI's own events: with them a record could end a consumer's connection.
_EVENTS_OF_ASGI = ("websocket.", "http.", "lifespan.")

_MESSAGES = ("key.message", "value.message")
"""The entries of ``schema_registry`` that are not for confluent-kafka's client."""


@dataclass(frozen=True)
class StreamSettings:
    """The settings of one stream.

    Attributes:
        name: The stream's name in this project.
        topic: Kafka's name of its topic; None if ``pattern`` is set.
        pattern: Matches the names of its topics, from their first character on; None if ``topic``
            is set. Use ``takes``, which leaves out Kafka's internal topics.
        groups: Give the groups that a record is for.
        users: Give the users that a record is for.
        type: The type of its messages, which names the handler; empty if there is no receiver.
        value: Codec of the values.
        key: Codec of the keys.
        where: Whether a record is for anyone, asked before all others; None: every record is. It
            raises UnreadableRecord (``function``) where the project's function fails.
        start: Where a server begins to read, and a consumer group without committed positions.
        tombstone: The type of the message for a record without a value; None skips such records.
        last_value: Whether a channel that joins a group gets the group's latest record first.
        on_error: ``skip`` a record that cannot be delivered, or ``stop`` the stream.
        bootstrap_servers: Brokers of another cluster; None: the layer's own.
        client_config: librdkafka properties of its clients, over the layer's own.
        schema_registry: The settings of the registry, as given; None: none.
        worker_channel: The worker channel, and consumer group, that takes each record once; None:
            none.
    """

    name: str
    topic: str | None
    pattern: re.Pattern[str] | None
    groups: tuple[Addresser, ...]
    users: tuple[Addresser, ...]
    type: str
    value: StreamCodec
    key: StreamCodec
    where: Callable[[StreamRecord], bool] | None
    start: Start
    tombstone: str | None
    last_value: bool
    on_error: Literal["skip", "stop"]
    bootstrap_servers: str | None
    client_config: Mapping[str, Any] = field(repr=False)
    schema_registry: Mapping[str, Any] | None = field(repr=False)
    worker_channel: str | None

    @property
    def is_read(self) -> bool:
        """Whether every server reads it: False if it is for producing or for workers alone."""
        return bool(self.groups or self.users)

    @property
    def asks_registry(self) -> bool:
        """Whether decoding a record may wait for a schema registry."""
        return self.key.blocking or self.value.blocking

    def forget_unknown_schemas(self) -> None:
        """Have the registry asked again for schemas that it did not know a moment ago."""
        for codec in (self.key, self.value):
            if isinstance(codec, RegistryCodec):
                codec.forget_unknown()

    def names(self, record: StreamRecord) -> tuple[Sequence[str], Sequence[str]]:
        """Return the groups and the keys of the users that a record is for, each of them once.

        Raises:
            UnreadableRecord: As ``Addresser.names``.
            RegistryAway: As ``Addresser.names``.
        """
        return (
            list(dict.fromkeys(name for each in self.groups for name in each.names(record))),
            list(dict.fromkeys(name for each in self.users for name in each.names(record))),
        )

    def may_reach(self, kind: Topic, name: str) -> bool:
        """Tell whether a record may be for a group or a user, as far as the settings alone tell.

        Args:
            kind: ``SEND_GROUP`` or ``SEND_USER``; nothing of a stream is for everybody.
            name: The group, or the key of the user.
        """
        if kind is Topic.SEND_GROUP:
            return any(each.may_give(name) for each in self.groups)
        return kind is Topic.SEND_USER and any(each.may_give(name) for each in self.users)

    def takes(self, topic: str) -> bool:
        """Tell whether Kafka's topic of this name is one of the stream's."""
        if self.pattern is None:
            return topic == self.topic
        return not topic.startswith("__") and self.pattern.match(topic) is not None


def read_streams(value: object, own_topics: Collection[str]) -> Mapping[str, StreamSettings]:
    """Read the keyword ``streams``.

    Args:
        value: The keyword's value; right is a mapping of names to mappings of settings.
        own_topics: Kafka's names of the layer's own topics: no stream may read or write them.

    Returns:
        The settings of each stream, by its name.

    Raises:
        ImproperlyConfigured: If a name is unknown or a value cannot work; it names the mend.
    """
    if not isinstance(value, Mapping):
        raise wrong_value("streams", value, "a dict of names of streams to dicts of settings")
    found = {name: _read_stream(name, settings, own_topics) for name, settings in value.items()}
    workers: dict[str, str] = {}
    for name, stream in found.items():
        if stream.worker_channel is None:
            continue
        other = workers.setdefault(stream.worker_channel, name)
        if other != name:
            raise ImproperlyConfigured(
                f"streams[{other!r}] and streams[{name!r}] have the same worker_channel "
                f"({stream.worker_channel!r}): one consumer group would read both topics. Give "
                "each a worker channel of its own."
            )
    return MappingProxyType(found)


def _read_stream(name: object, value: object, own_topics: Collection[str]) -> StreamSettings:
    where = f"streams[{name!r}]"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ImproperlyConfigured(
            f"streams has the name {name!r}; a stream's name is 1 to 100 ASCII letters, digits, "
            "periods, hyphens or underscores. Kafka's name of the topic is the setting 'topic'."
        )
    if not isinstance(value, Mapping):
        raise wrong_value(where, value, "a dict of settings")
    for setting in value:
        if setting not in STREAM_SETTINGS:
            reject_unknown(f"setting in {where}:", setting, STREAM_SETTINGS)

    def at(setting: str) -> str:
        return f"{where}[{setting!r}]"

    def optional(setting: str, read: Callable[[str, Any], Any]) -> Any:
        given = value.get(setting)
        return None if given is None else read(at(setting), given)

    servers = optional("bootstrap_servers", read_servers)
    topic, pattern = _read_topic(at("topic"), value.get("topic", name))
    if servers is None:
        _require_foreign(at("topic"), topic, pattern, own_topics)
    groups = _read_addressers(at("group"), value.get("group"), GroupNames, GroupFunction)
    users = _read_addressers(at("user"), value.get("user"), UserKeys, UserFunction)
    worker_channel = optional("worker_channel", _read_worker_channel)
    if worker_channel is not None and pattern is not None:
        raise ImproperlyConfigured(
            f"{at('worker_channel')} is {worker_channel!r}, and the topic is a pattern: the "
            "workers of a channel share one topic. Name it, and make a stream of each further one."
        )
    _require_sense(where, value, bool(groups), bool(groups or users or worker_channel))
    registry, key, codec = _read_codecs(where, value)
    return StreamSettings(
        name=name,
        topic=topic,
        pattern=pattern,
        groups=groups,
        users=users,
        type=optional("type", _read_type) or "",
        value=codec,
        key=key,
        where=optional("where", _read_where),
        start=_read_start(at("start"), value.get("start", "latest")),
        tombstone=optional("tombstone", _read_type),
        last_value=read_boolean(at("last_value"), value.get("last_value", False)),
        on_error=read_one_of("skip", "stop")(at("on_error"), value.get("on_error", "skip")),
        bootstrap_servers=servers,
        client_config=_read_client_config(at("client_config"), value.get("client_config", {})),
        schema_registry=registry,
        worker_channel=worker_channel,
    )


def _read_client_config(where: str, value: object) -> Mapping[str, Any]:
    properties = read_properties("client_config", value, where)
    if "isolation.level" in properties:
        raise ImproperlyConfigured(
            f"{where} must not set 'isolation.level': a stream reads committed records alone. "
            "Remove it."
        )
    return properties


def _require_sense(
    where: str, value: Mapping[str, Any], has_groups: bool, has_receivers: bool
) -> None:
    """Check that the settings of a stream do not contradict one another."""
    useless = [setting for setting in _ONLY_OF_READERS if setting in value]
    if useless and not has_receivers:
        raise ImproperlyConfigured(
            f"{where} has {useless[0]!r}, and nobody to send to: set 'group', 'user' or "
            "'worker_channel'. Without them a stream is for produce() alone."
        )
    if has_receivers and value.get("type") is None:
        raise ImproperlyConfigured(
            f"{where} has no type; name the handler of its messages, for instance "
            "'type': 'order.changed' for a method order_changed."
        )
    if value.get("last_value") and not has_groups:
        raise ImproperlyConfigured(
            f"{where} has 'last_value' and no group: set 'group', whose new members get the "
            "latest record."
        )
    if value.get("last_value") and "start" in value:
        raise ImproperlyConfigured(
            f"{where} has 'last_value' and 'start': to know the latest records a server reads the "
            "topic from its beginning. Remove 'start'."
        )


def _read_topic(where: str, value: object) -> tuple[str | None, re.Pattern[str] | None]:
    if isinstance(value, str) and value.startswith("^"):
        try:
            return None, re.compile(value)
        except re.error as error:
            raise ImproperlyConfigured(
                f"{where} is {value!r}, which is no regular expression: {error}."
            ) from None
    if not isinstance(value, str) or not _TOPIC.fullmatch(value) or value in (".", ".."):
        raise wrong_value(
            where, value, "Kafka's name of a topic, or a pattern of names that begins with '^'"
        )
    return value, None


def _require_foreign(
    where: str, topic: str | None, pattern: re.Pattern[str] | None, own_topics: Collection[str]
) -> None:
    for own in own_topics:
        if topic == own:
            raise ImproperlyConfigured(
                f"{where} is {topic!r}, a topic of the layer itself. Name another topic, or give "
                "the layer another prefix."
            )
        if pattern is not None and pattern.match(own):
            raise ImproperlyConfigured(
                f"{where} is {pattern.pattern!r}, which matches a topic of the layer itself, "
                f"{own!r}. Make it narrower: '^(?!' and the layer's prefix and '-)' leaves them "
                "out."
            )


def _read_addressers(
    where: str,
    value: object,
    template: Callable[[str], Addresser],
    function: Callable[[Any], Addresser],
) -> tuple[Addresser, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        return (_read_addresser(where, value, template, function),)
    if not value:
        raise wrong_value(where, value, "a template, a function, or a list of at least one")
    return tuple(
        _read_addresser(f"{where}[{number}]", each, template, function)
        for number, each in enumerate(value)
    )


_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def _read_addresser(
    where: str,
    value: object,
    template: Callable[[str], Addresser],
    function: Callable[[Any], Addresser],
) -> Addresser:
    if isinstance(value, str) and not _PATH.fullmatch(value):
        try:
            return template(value)
        except ValueError as error:
            raise ImproperlyConfigured(f"{where} is {value!r}, no template: {error}.") from None
    made: Addresser = _read_function(where, value, function)
    return made


def _read_function(where: str, value: object, make: Callable[[Any], Any]) -> Any:
    made = _imported(where, value) if isinstance(value, str) else value
    if not callable(made):
        raise wrong_value(where, value, "a function of a record, or its dotted path")
    try:
        return make(made)
    except TypeError as error:
        raise ImproperlyConfigured(f"{where} is {value!r}: {error}.") from None


def _read_where(where: str, value: object) -> Filter:
    filter_: Filter = _read_function(where, value, Filter)
    return filter_


def _imported(where: str, path: str) -> Any:
    try:
        return import_string(path)
    except ImportError as error:
        problem = f"{where} is {path!r}, which cannot be imported: {error}."
        raise ImproperlyConfigured(problem) from None


def _read_worker_channel(where: str, value: object) -> str:
    if (
        not isinstance(value, str)
        or "!" in value
        or len(value) > LONGEST_NAME
        or not CHANNEL_NAME.match(value)
    ):
        raise wrong_value(
            where,
            value,
            f"the name of a channel: 1 to {LONGEST_NAME} ASCII letters, digits, hyphens, "
            "underscores or periods",
        )
    return value


def _read_type(where: str, value: object) -> str:
    handler = value.replace(".", "_") if isinstance(value, str) else ""
    if not isinstance(value, str) or not handler.isidentifier() or handler.startswith("_"):
        raise wrong_value(
            where, value, "the name of a handler, such as 'order.changed' for order_changed"
        )
    if value.startswith(_EVENTS_OF_ASGI):
        raise ImproperlyConfigured(
            f"{where} is {value!r}, an event of ASGI itself: a record could end a connection. "
            "Choose another name, such as 'order.changed'."
        )
    return value


def _read_start(where: str, value: object) -> Start:
    wanted = "'latest', 'earliest', a timedelta (so long ago) or a datetime with a time zone"
    if isinstance(value, str) and value in ("latest", "earliest"):
        return "latest" if value == "latest" else "earliest"
    if isinstance(value, datetime.timedelta):
        if value <= datetime.timedelta(0):
            raise ImproperlyConfigured(
                f"{where} is {value!r}; it is how long ago reading begins, so it must be above 0."
            )
        return value
    if isinstance(value, datetime.datetime):
        if value.utcoffset() is None:
            raise ImproperlyConfigured(
                f"{where} is {value!r} without a time zone; give it one: tzinfo=datetime.timezone."
                "utc, or django.utils.timezone.make_aware()."
            )
        return value
    raise wrong_value(where, value, wanted)


def _read_codecs(
    where: str, value: Mapping[str, Any]
) -> tuple[Mapping[str, Any] | None, StreamCodec, StreamCodec]:
    """Return the settings of the registry, the codec of the keys and that of the values."""
    given = {"key": value.get("key", "str"), "value": value.get("value", "json")}
    settings = value.get("schema_registry")
    registry: Registry | None = None
    asking = {part: codec for part, codec in given.items() if _asks_registry(codec)}
    if settings is None:
        for part, codec in asking.items():
            raise ImproperlyConfigured(
                f"{where}[{part!r}] is {codec!r}, and there is no schema registry: set "
                "'schema_registry': {'url': 'http://…:8081'}."
            )
    elif not asking:
        raise ImproperlyConfigured(
            f"{where} has a schema_registry that neither its value nor its key needs: set 'value' "
            f"to {' or '.join(map(repr, REGISTRY_CODECS))}, or remove schema_registry."
        )
    else:
        settings, registry = _read_registry(f"{where}['schema_registry']", settings)
    made: list[StreamCodec] = [
        _read_registry_codec(where, part, codec, settings or {}, registry)
        if registry is not None and part in asking
        else _read_codec(f"{where}[{part!r}]", codec)
        for part, codec in given.items()
    ]
    return settings, made[0], made[1]


def _read_registry(where: str, value: object) -> tuple[Mapping[str, Any], Registry]:
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value):
        # It may hold a password, so it is not shown.
        raise ImproperlyConfigured(f"{where} must be a dict with 'url' and other properties.")
    properties = {name: each for name, each in value.items() if name not in _MESSAGES}
    try:
        registry = Registry(properties)
    except ImportError as error:
        raise _not_installed(where, error) from None
    except (TypeError, ValueError, OSError) as error:
        raise ImproperlyConfigured(f"{where} cannot work: {error}.") from None
    return MappingProxyType(Properties(value)), registry


def _read_registry_codec(
    where: str, part: str, kind: str, settings: Mapping[str, Any], registry: Registry
) -> RegistryCodec:
    name = f"{part}.message"
    at = f"{where}['schema_registry'][{name!r}]"
    message = settings.get(name)
    if isinstance(message, str):
        message = _imported(at, message)
    if not (hasattr(message, "DESCRIPTOR") if kind == "protobuf" else message is None):
        raise ImproperlyConfigured(
            f"{at} is {message!r}; for protobuf, and only there, it must be the class that protoc "
            "generated for the message, or its dotted path, such as 'shop.orders_pb2.Order'."
        )
    try:
        return RegistryCodec(kind, registry, message)
    except ImportError as error:
        raise _not_installed(f"{where}[{part!r}]", error) from None


def _not_installed(where: str, error: ImportError) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"{where} needs a package that is not installed ({error}); run: "
        "pip install 'kafka-layer[schema-registry]'."
    )


def _asks_registry(codec: object) -> bool:
    return isinstance(codec, str) and codec in REGISTRY_CODECS


def _read_codec(where: str, value: object) -> StreamCodec:
    if isinstance(value, str):
        if value in CODECS:
            return CODECS[value]
        if "." not in value:
            reject_unknown(f"codec in {where}:", value, (*CODECS, *REGISTRY_CODECS))
        value = _imported(where, value)
    try:
        return OwnCodec(value)
    except TypeError as error:
        raise ImproperlyConfigured(f"{where} is {value!r}: {error}.") from None
