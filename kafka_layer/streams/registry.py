"""Codecs with a schema registry: Avro, Protobuf and JSON Schema, with confluent-kafka's clients.

They need the extra ``kafka-layer[schema-registry]``. The clients ask the registry once for each
schema, and cache the answer. ``_Unknown`` remembers for a moment which schemas the registry does
not know. No call runs on an event loop.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from ..config.realtime import monotonic
from ..config.timings import Timings
from ..exceptions import KafkaLayerError, RegistryAway, TopicError, UnreadableRecord
from .codecs import CodecContext

__all__ = ["REGISTRY_CODECS", "Registry", "RegistryCodec"]

# The default strategy asks the registry about each topic before it falls back to this one.
_READ = {"subject.name.strategy.type": "TOPIC"}
_WRITE = {**_READ, "auto.register.schemas": False, "use.latest.version": True}

# The registry's own codes for a subject, a version and a schema that it does not have. A 404
# without one of them comes from another server, such as a proxy.
_UNKNOWN = (40401, 40402, 40403)

_READING = ("get_schema", "get_schema_by_guid", "get_version")
_WRITING = ("get_latest_version", "get_latest_with_metadata", "lookup_schema")


class Registry:
    """A schema registry, as one stream's settings name it.

    Args:
        settings: ``url`` and other properties of confluent-kafka's ``SchemaRegistryClient``.
        timeout: Seconds that an answer may take, over all of its servers.
        unknown: Seconds for which a reader does not ask again for a schema that the registry does
            not know: each record of a topic may name it.

    Raises:
        ImportError: If the extra is not installed.
        ValueError: If a property is unknown or cannot work; the text says why.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        timeout: float = Timings.registry,
        unknown: float = Timings.registry_unknown,
    ) -> None:
        servers = str(settings.get("url", "")).count(",") + 1
        # Half for the connection, half for the answer. The stream itself tries again.
        times = {"timeout": timeout / servers / 2, "max.retries": 0}
        self._properties = {**times, **settings}
        self._unknown = _Unknown(unknown)
        self._made = (os.getpid(), self._new_client())

    def client(self) -> Any:
        """Return the client of this process: a forked child must not share a connection."""
        made = self._made
        if made[0] != os.getpid():
            made = self._made = (os.getpid(), self._new_client())
        return made[1]

    def forget_unknown(self) -> None:
        """Ask again for schemas that the registry did not know a moment ago."""
        self._unknown.clear()

    def _new_client(self) -> Any:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        client, url = SchemaRegistryClient(dict(self._properties)), str(self._properties["url"])
        for name in _READING:
            setattr(client, name, _asking(getattr(client, name), url, self._unknown))
        # Without _Unknown: a program that registers a schema can write with it at once.
        for name in _WRITING:
            setattr(client, name, _asking(getattr(client, name), url))
        return client


class _Unknown:
    """The questions that a registry could not answer a moment ago; any thread.

    Args:
        seconds: For how long they are remembered.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # By question: the registry's error, and until when it is remembered.
        self._answers: dict[Hashable, tuple[str, float]] = {}

    def note(self, question: Hashable, said: str) -> None:
        """Note that the registry does not know the answer."""
        if len(self._answers) >= _MOST_UNKNOWN:
            self._answers.clear()
        self._answers[question] = said, monotonic() + self._seconds

    def said(self, question: Hashable) -> str | None:
        """Return its error of a moment ago; None if the registry has to be asked."""
        said, until = self._answers.get(question, (None, 0.0))
        return said if monotonic() < until else None

    def clear(self) -> None:
        """Forget everything."""
        self._answers.clear()


_MOST_UNKNOWN = 1000


def _asking(
    ask: Callable[..., Any], url: str, unknown: _Unknown | None = None
) -> Callable[..., Any]:
    """Return a method of the client that raises this package's errors.

    Args:
        ask: The method.
        url: The registry's address, for errors.
        unknown: Remembers what the registry does not know; None if it is asked each time.
    """
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    @functools.wraps(ask)
    def asking(*args: Any, **kwargs: Any) -> Any:
        question = ask.__name__, args, *sorted(kwargs.items())
        said = None if unknown is None else unknown.said(question)
        if said is not None:
            raise UnreadableRecord("schema", said)
        try:
            return ask(*args, **kwargs)
        except SchemaRegistryError as error:
            if error.error_code in _UNKNOWN:
                said = f"the schema registry says: {error}"
                if unknown is not None:
                    unknown.note(question, said)
                raise UnreadableRecord("schema", said) from None
            raise RegistryAway(f"The schema registry {_shown(url)} answers: {error}") from None
        except KafkaLayerError:
            raise  # from another wrapped method, which this one calls
        except Exception as error:
            raise RegistryAway(
                f"The schema registry {_shown(url)} does not answer: {error!r}"
            ) from error

    return asking


def _shown(url: str) -> str:
    """Return an address without the credentials that it may hold."""
    return ",".join(each.strip().rpartition("@")[2] for each in url.split(","))


_Coders = tuple[Callable[[bytes, Any], Any], Callable[[Any, Any], bytes]]


def _avro(client: Any, message: type | None) -> _Coders:
    from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer

    # Without it fastavro drops the entries of a dict that the schema does not have.
    strict = {"validate.strict.allow.default": True}
    return AvroDeserializer(client, conf=_READ), AvroSerializer(client, conf={**_WRITE, **strict})


def _json_schema(client: Any, message: type | None) -> _Coders:
    from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer

    return (
        JSONDeserializer(None, schema_registry_client=client, conf=_READ),
        JSONSerializer(None, client, conf=_WRITE),
    )


def _protobuf(client: Any, message: type | None) -> _Coders:
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
    from google.protobuf.json_format import MessageToDict, ParseDict

    new_message: Any = message
    deserialize = ProtobufDeserializer(new_message, _READ, client)
    serialize = ProtobufSerializer(new_message, client, _WRITE)

    def decode(data: bytes, context: Any) -> Any:
        return MessageToDict(
            deserialize(data, context),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )

    def encode(obj: Any, context: Any) -> bytes:
        made = ParseDict(obj, new_message()) if isinstance(obj, Mapping) else obj
        data: bytes = serialize(made, context)
        return data

    return decode, encode


REGISTRY_CODECS: Mapping[str, Callable[[Any, type | None], _Coders]] = {
    "avro": _avro,
    "protobuf": _protobuf,
    "json-schema": _json_schema,
}
"""The codecs by their names in the settings: a function of the client and the message class."""


class RegistryCodec:
    """Decodes and encodes with the schemas of a registry.

    It reads with the schema with which a record was written, and writes with the latest schema of
    the subject ``TOPIC-value`` or ``TOPIC-key``.

    Args:
        kind: ``avro``, ``protobuf`` or ``json-schema``.
        registry: Where the schemas are.
        message: For ``protobuf`` the class that ``protoc`` generated.

    Raises:
        ImportError: If the extra is not installed.
    """

    blocking = True

    def __init__(self, kind: str, registry: Registry, message: type | None = None) -> None:
        self._kind = kind
        self._registry = registry
        self._message = message
        self._coders_of = registry.client()
        self._coders = REGISTRY_CODECS[kind](self._coders_of, message)

    def forget_unknown(self) -> None:
        """As ``Registry.forget_unknown``."""
        self._registry.forget_unknown()

    def decode(self, data: bytes, context: CodecContext) -> Any:
        """As ``StreamCodec.decode``; Protobuf as its JSON form, with all fields by their names."""
        decode, _ = self._current_coders()
        try:
            return decode(data, _kafkas(context))
        except KafkaLayerError:
            raise
        except Exception as error:
            raise UnreadableRecord(
                "undecodable", f"its {context.part} is no {self._kind}: {error!r}"
            ) from error

    def encode(self, obj: Any, context: CodecContext) -> bytes:
        """As ``StreamCodec.encode``; Protobuf from a dict in its JSON form, or from a message."""
        _, encode = self._current_coders()
        try:
            return encode(obj, _kafkas(context))
        except UnreadableRecord as error:
            subject = f"{context.topic}-{context.part}"
            raise TopicError(
                f"The schema registry has no schema for {subject!r}: register it under this "
                f"subject. {error}."
            ) from None
        except KafkaLayerError:
            raise
        except Exception as error:
            raise TypeError(
                f"The {context.part} does not fit its {self._kind} schema: {error!r}."
            ) from error

    def _current_coders(self) -> _Coders:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise RuntimeError("A codec that asks a schema registry must not block an event loop.")
        client = self._registry.client()
        if client is not self._coders_of:
            self._coders_of = client
            self._coders = REGISTRY_CODECS[self._kind](client, self._message)
        return self._coders


def _kafkas(context: CodecContext) -> Any:
    """Return the context as confluent-kafka's class."""
    from confluent_kafka.serialization import MessageField, SerializationContext

    field = MessageField.KEY if context.part == "key" else MessageField.VALUE
    return SerializationContext(context.topic, field, list(context.headers))
