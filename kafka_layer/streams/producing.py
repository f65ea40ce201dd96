"""Writes to the topics of streams: one record for each call of ``produce``."""

from __future__ import annotations

import copy
import difflib
import queue
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from channels.exceptions import MessageTooLarge

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.streams import StreamSettings
from ..config.threads import Lock, SimpleQueue, new_thread, sleep
from ..delivery.tickets import Steps, Ticket, wait
from ..exceptions import RegistryAway, TopicError
from ..messages import Position
from ..server.overflow import OverflowPolicy, put
from ..server.sending import RECORD_OVERHEAD, size_of
from ..server.server import Server
from ..transport import StreamWriter
from ..wire.headers import Headers, Produced, ProducedHeaders
from ..wire.records import StreamProducerRecord
from ..wire.topics import StreamTopic
from .codecs import CodecContext, StreamCodec

__all__ = ["Outgoing", "Producing", "StreamHeaders", "outgoing"]

StreamHeaders = Mapping[str, "str | bytes"] | Iterable[tuple[str, "str | bytes"]]
"""Headers for ``produce``: a mapping, or pairs, in which a name may come more than once."""


_Part = Literal["key", "value"]
_PARTS: tuple[_Part, ...] = ("key", "value")


class Outgoing(NamedTuple):
    """A record for the topic of a stream, whose arguments were checked.

    Attributes:
        topic: The topic.
        settings: The stream's settings.
        produced: The arguments of ``produce``.
        partition: Number of the partition; None: the key decides.
        encoded: The bytes of the key and of the value, if they are encoded already.
    """

    topic: StreamTopic
    settings: StreamSettings
    produced: Produced
    partition: int | None
    encoded: Mapping[_Part, bytes | None] = MappingProxyType({})

    @property
    def blocking(self) -> bool:
        """Whether ``encode`` may wait for a schema registry, so that no event loop may call it."""
        return any(map(self._asks_registry, _PARTS))

    def encode(self) -> StreamProducerRecord:
        """Return the record as bytes.

        Raises:
            TypeError: If the codec, or the schema, cannot carry the key or the value.
            RegistryAway: If a schema registry does not answer.
        """
        key, value = map(self._bytes_of, _PARTS)
        return self.topic, key, value, self.partition, ProducedHeaders(self.produced)

    def fixed(self) -> Outgoing:
        """Return a record that later changes of the caller's objects do not affect.

        It has a copy of each part whose codec may wait for a schema registry, and the bytes of
        other parts.

        Raises:
            TypeError: If a codec cannot carry the key or the value, or if it cannot be copied.
        """
        encoded = {part: self._bytes_of(part) for part in _PARTS if not self._asks_registry(part)}
        copies = {part: self._copy_of(part, encoded.get(part)) for part in _PARTS}
        return self._replace(produced=self.produced._replace(**copies), encoded=encoded)

    def _asks_registry(self, part: _Part) -> bool:
        # True for a tombstone as well: it must not overtake earlier records of its key.
        asks = part == "value" or self.produced.key is not None
        return asks and part not in self.encoded and bool(getattr(self.settings, part).blocking)

    def _bytes_of(self, part: _Part) -> bytes | None:
        if part in self.encoded:
            return self.encoded[part]
        given, codec = getattr(self.produced, part), getattr(self.settings, part)
        if given is None:
            return None
        data: bytes = codec.encode(given, CodecContext(self.topic.name, part))
        return data

    def _copy_of(self, part: _Part, encoded: bytes | None) -> Any:
        try:
            return copy.deepcopy(getattr(self.produced, part))
        except (TypeError, copy.Error):
            # An object that cannot be copied, such as a memoryview.
            if encoded is None:
                raise
            codec: StreamCodec = getattr(self.settings, part)
            return codec.decode(encoded, CodecContext(self.topic.name, part))


def outgoing(
    config: LayerConfig,
    stream: str,
    value: Any,
    key: Any,
    headers: StreamHeaders | None,
    partition: int | None,
) -> Outgoing:
    """Check the arguments of ``produce``.

    Raises:
        TopicError: If the settings have no such stream, or it is a pattern of topics.
        TypeError: If the headers or the partition have a wrong type.
        ValueError: If the partition is negative, or a header's name has a NUL.
    """
    settings = config.streams.get(stream)
    if settings is None:
        raise TopicError(_unknown(stream, config.streams))
    if settings.topic is None:
        raise TopicError(
            f"Stream {stream!r} reads all topics that match a pattern, so that no one topic is "
            'meant. For producing, add a stream with a plain "topic" to the setting "streams".'
        )
    if partition is not None:
        if isinstance(partition, bool) or not isinstance(partition, int):
            raise TypeError(f"partition must be an int or None, not {partition!r}.")
        if partition < 0:
            raise ValueError(f"partition must be 0 or more, not {partition}.")
    produced = Produced(stream, key, value, [] if headers is None else _headers(headers))
    return Outgoing(StreamTopic(stream, settings.topic), settings, produced, partition)


class Producing:
    """Writes the records of one server to the topics of streams; any thread.

    Args:
        server: The server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._await_produce = server.config.await_produce
        self._limit = server.config.producer_max_message_bytes - RECORD_OVERHEAD
        self._writers: dict[StreamTopic, StreamWriter] = {}
        # By stream: encodes records whose codec may wait for a schema registry.
        self._encoders: dict[str, _Encoder] = {}

    def encode(self, record: Outgoing) -> Steps[StreamProducerRecord]:
        """Encode a record; in a thread if that may wait for a schema registry.

        Raises:
            TypeError: If the codec, or the schema, cannot carry the key or the value.
            RegistryAway: If a schema registry did not answer within ``expiry`` seconds.
            MessageTooLarge: If the record is larger than the producer takes.
        """
        if record.blocking:
            encoder = self._encoders.setdefault(record.topic.stream, _Encoder(self._server.config))
            encoded = yield from wait(encoder.encode(record))
        else:
            encoded = record.encode()
        _, key, value, _, headers = encoded
        size = size_of(value or b"", headers) + len(key or b"")
        if size > self._limit:
            raise MessageTooLarge(
                f"A record of {size} bytes for stream {record.topic.stream!r} is larger than the "
                f"layer's producer takes ({self._limit} bytes, from the largest max.message.bytes "
                "of the settings); raise that, or send a reference."
            )
        return encoded

    def is_open(self, topic: StreamTopic) -> bool:
        """Tell whether ``send`` may be called for a topic."""
        return topic in self._writers

    def open(self, topic: StreamTopic) -> Ticket[None]:
        """Get ready to write to a topic, in a thread; callers share one start.

        The ticket fails with ``TopicError`` if the topic does not exist.
        """
        return self._server.start(
            ("producing", topic), "kafka-layer-start-producing", partial(self._open, topic)
        )

    def send(self, record: StreamProducerRecord) -> Steps[Ticket[Position] | None]:
        """Queue a record; see ``Sender.send``.

        Returns:
            The ticket of its position with ``await_produce``; None without, and if the record was
            discarded.
        """
        ticket: Ticket[Position] | None = Ticket() if self._await_produce else None
        topic, key, _, _, _ = record
        writer = self._writers[topic]
        config, stats = self._server.config, self._server.stats
        queued = yield from put(
            partial(writer.produce, record, ticket),
            writer.when_room,
            partial(OverflowPolicy, config, stats, topic, key),
        )
        return ticket if queued else None

    def _open(self, topic: StreamTopic) -> None:
        timings = self._server.config.timings
        deadline = monotonic() + timings.start
        self._server.start_sending().result()
        left = max(timings.start_step, deadline - monotonic())
        self._writers[topic] = self._server.transport.open_stream_writer(topic, left)


class _Encoder:
    """Encodes the records of one stream, in the order of the calls, in a thread; any thread.

    States, with what leads from one to the other:

    - *idle*: no thread. ``encode`` starts one: *running*.
    - *running*: the thread encodes the records that wait. It ends when none came for
      ``timings.registry``: *idle*.

    While the registry does not answer, the records wait in their order. Each fails ``expiry``
    seconds after its call.

    Args:
        config: The layer's settings.
    """

    def __init__(self, config: LayerConfig) -> None:
        self._expiry = config.expiry
        self._linger = config.timings.registry
        self._pause = config.timings.registry_retry
        self._waiting: queue.SimpleQueue[Callable[[], None]] = SimpleQueue()
        # Held by the thread while it runs.
        self._running = Lock()

    def encode(self, record: Outgoing) -> Ticket[StreamProducerRecord]:
        """Encode a record; returns at once."""
        ticket: Ticket[StreamProducerRecord] = Ticket()
        self._waiting.put(partial(self._encode, record, monotonic() + self._expiry, ticket))
        self._start()
        return ticket

    def _start(self) -> None:
        if self._running.acquire(blocking=False):
            try:
                new_thread(self._run, "kafka-layer-encode").start()
            except RuntimeError:
                # The process ends and starts no threads any more.
                self._run_to_the_end(0.0)

    def _run(self) -> None:
        self._run_to_the_end(self._linger)

    def _run_to_the_end(self, linger: float) -> None:
        try:
            while True:
                self._waiting.get(timeout=linger)()
        except queue.Empty:
            pass
        finally:
            self._running.release()
        # encode() starts no thread while this one ends: its record may still wait.
        if not self._waiting.empty():
            self._start()

    def _encode(
        self, record: Outgoing, deadline: float, ticket: Ticket[StreamProducerRecord]
    ) -> None:
        while True:
            try:
                ticket.resolve(record.encode())
            except RegistryAway as error:
                if monotonic() + self._pause < deadline:
                    sleep(self._pause)
                    continue
                ticket.fail(error)
            except BaseException as error:
                ticket.fail(error)
            return


def _headers(headers: StreamHeaders) -> Headers:
    wanted = "headers must be a mapping of str to str or bytes, or pairs of these"
    if isinstance(headers, (str, bytes)):
        raise TypeError(f"{wanted}, not {headers!r}.")
    found: Headers = []
    for pair in headers.items() if isinstance(headers, Mapping) else headers:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{wanted}; one of them is {pair!r}.")
        name, value = pair
        if not isinstance(name, str) or not isinstance(value, (str, bytes)):
            raise TypeError(f"{wanted}; {name!r} is {value!r}.")
        if "\0" in name:
            raise ValueError(f"headers has the name {name!r}: clients end a name at its NUL.")
        try:
            name.encode()
            found.append((name, value.encode() if isinstance(value, str) else value))
        except UnicodeEncodeError:
            raise TypeError(f"{wanted}; UTF-8 cannot carry {name!r}: {value!r}.") from None
    return found


def _unknown(stream: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(str(stream), names, n=1)
    if close:
        mend = f"did you mean {close[0]!r}?"
    elif names:
        mend = f"it has {', '.join(map(repr, names))}. Add it there."
    else:
        mend = "it is empty. Add the stream there."
    return f'The setting "streams" has no stream {stream!r}; {mend}'
