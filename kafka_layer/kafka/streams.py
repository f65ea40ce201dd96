"""Reads the topics of one stream, in one thread: finds the topics and the offsets to read from."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, Message

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.streams import StreamSettings
from ..config.threads import new_event
from ..delivery.tickets import Ticket
from ..exceptions import BrokerUnavailable, LayerClosed
from ..observe.counters import Stats
from ..transport import (
    BatchFacts,
    OnEpoch,
    OnStreamPositions,
    ReadFrom,
    StreamFacts,
    StreamSink,
    StreamStart,
)
from ..wire.record_block import size_of_headers
from ..wire.topics import StreamTopic, topic_ids_differ
from .connection import Connection
from .errors import kafka_error
from .properties import stream_properties
from .read_positions import From, Partition, Since, Start
from .reader import Reader
from .topics import KnownTopics, TopicWatch, read_answers

__all__ = ["StreamReader"]

# Seconds between two checks for topics, until the first one is answered.
_RETRY = 0.2
# Seconds between two checks whether the topics are read to their ends.
_CAUGHT_UP = 0.05
# Seconds after its time-out until a check without an answer is given up.
_GRACE = 0.5


class StreamReader:
    """Reads the topics of one stream; see ``StreamSource``. Any thread may call its methods.

    It checks which topics exist, and tells its ``Reader``, in whose thread it works, which
    partitions to read from where. A partition that is not read for a while continues where it was
    left. A topic that two checks did not find is forgotten. If it is created again, it has another
    id, and is read from its beginning.

    Args:
        config: The settings of the stream's clients.
        settings: Those of the stream.
        sink: Gets the records.
        stats: Counts what happens to the stream.
        connection: The state of the connection to its brokers.
        watch: Returns the client that checks the topics.
    """

    def __init__(
        self,
        config: LayerConfig,
        settings: StreamSettings,
        sink: StreamSink,
        stats: Stats,
        connection: Connection,
        watch: Callable[[], TopicWatch],
    ) -> None:
        self._settings = settings
        self._sink = sink
        self._connection = connection
        self._watch = watch
        self._interval = config.timings.topics
        self._timeout = config.timings.request
        self._names: dict[str, StreamTopic] = {}
        self._reader = Reader(
            f"stream-{settings.name}",
            stream_properties(config),
            self._names,
            sink,
            stats,
            connection,
            self._look_soon,
            config.timings,
            self._turn,
            raw=True,
            on_anew=sink.made_anew,
            on_missed=sink.missed,
        )
        self.key: Callable[[Any], bytes | None] = Message.key
        self.value: Callable[[Any], bytes | None] = Message.value
        self.record = self._reader.record
        # Functions for the thread to call, with the tickets of their callers.
        self._commands: deque[tuple[Callable[[], None], Ticket[None]]] = deque()
        self._interrupted = new_event()
        self._stopped = False
        # The listeners for the positions of the partitions, and for leader epochs.
        self._listener: OnStreamPositions | None = None
        self._on_epoch: OnEpoch = lambda where, offset, epoch: None
        self._facts = StreamFacts(trouble="no broker has answered yet")
        # The fields below are used by the thread alone.
        self._reads = True
        self._first: From | Since = From.END
        # Grows each time that all partitions start again.
        self._number = 0
        # Whether a check has been answered. Topics that appear later are read from their beginning.
        self._looked = False
        self._known = KnownTopics()
        # The partitions that begin at _first, unless they are in _left.
        self._initial: frozenset[Partition] = frozenset()
        # Where to continue partitions that were read.
        self._left: dict[Partition, ReadFrom] = {}
        # The partitions that are read.
        self._read_now: frozenset[Partition] = frozenset()
        # The first record of each partition that the sink did not take.
        self._refused: dict[Partition, int] = {}
        self._answers: Mapping[str, Future[Any]] | None = None
        self._next_look = self._give_up_at = 0.0
        self._missing: frozenset[str] = frozenset()
        # Tickets that are resolved once all partitions have their starts.
        self._waiting: list[Ticket[None]] = []
        # Whether the topics are read to the ends that they had when reading began; only with last
        # values.
        self._is_caught_up = not settings.last_value
        self._next_question = 0.0

    # Any thread

    def begin(self, start: StreamStart) -> Ticket[None]:
        self._first = _place(start)
        begun: Ticket[None] = Ticket()
        self._waiting.append(begun)

        def on_started(started: Ticket[None]) -> None:
            if started.error is not None:
                begun.fail(started.error)
                self._sink.failed(started.error)

        self._reader.start({}, self._timeout).on_done(on_started)
        return begun

    def read(self, on: bool) -> Ticket[None]:
        def carry_out() -> None:
            self._reads = on
            self._is_caught_up = not self._settings.last_value

        return self._command(carry_out)

    def seek(self, start: StreamStart) -> Ticket[None]:
        def carry_out() -> None:
            self._first = _place(start)
            self._begin_again()
            self._left.clear()
            self._initial = frozenset(self._partitions())
            self._sink.sought()

        return self._command(carry_out)

    def follow(self, listener: OnStreamPositions, on_epoch: OnEpoch) -> None:
        self._listener, self._on_epoch = listener, on_epoch
        self._reader.follow(self._on_positions, on_epoch)

    def where(self, message: Message) -> tuple[StreamTopic, int]:
        return self._names[message.topic() or ""], message.partition() or 0

    def offset(self, message: Message) -> int:
        return message.offset() or 0

    def facts_of(self, messages: Sequence[Message]) -> BatchFacts:
        # Hot path, while the stream is kept for tracked channels.
        size = sum(map(len, messages))
        # A header whose name is not UTF-8 is reported later, as an error of its record.
        with contextlib.suppress(Exception):
            found: Any = filter(None, map(Message.headers, messages))
            size += sum(map(size_of_headers, found))
        if len(self._names) > 1:
            return BatchFacts({self.where(each): self.offset(each) + 1 for each in messages}, size)
        [topic] = self._names.values()
        last = {each.partition(): each.offset() for each in messages}
        return BatchFacts(
            {(topic, number or 0): (at or 0) + 1 for number, at in last.items()}, size
        )

    def leave(self, messages: Sequence[Message]) -> None:
        for message in messages:
            where = message.topic() or "", message.partition() or 0
            self._refused.setdefault(where, message.offset() or 0)

    def wait(self, seconds: float) -> bool:
        # Records arrive, so the starts are known.
        self._resolve_if_settled()
        return not self._interrupted.wait(seconds)

    def facts(self) -> StreamFacts:
        return self._facts._replace(lag=self._reader.lag)

    def stop(self) -> None:
        self._stopped = True
        self._reader.stop()
        self._interrupted.set()
        error = LayerClosed("The channel layer was closed.")
        for _, ticket in tuple(self._commands):
            ticket.fail(error)
        for ticket in tuple(self._waiting):
            ticket.fail(error)

    def join(self, timeout: float) -> None:
        self.stop()
        self._reader.join(timeout)

    def _command(self, carry_out: Callable[[], None]) -> Ticket[None]:
        ticket: Ticket[None] = Ticket()
        self._commands.append((carry_out, ticket))
        self._interrupted.set()
        if self._stopped:
            ticket.fail(LayerClosed("The channel layer was closed."))
        return ticket

    # The thread of the reader

    def _turn(self) -> None:
        if self._commands or self._refused:
            self._take_commands()
        self._look()
        self._resolve_if_settled()
        if not self._is_caught_up and self._reads and self._looked:
            self._look_whether_caught_up()
        self._sink.turn()

    def _look_whether_caught_up(self) -> None:
        now = monotonic()
        if now >= self._next_question:
            # Asking a client for its positions takes half a millisecond, as long as a batch.
            self._next_question = now + _CAUGHT_UP
            if self._reader.caught_up():
                self._is_caught_up = True
                self._sink.caught_up()

    def _take_commands(self) -> None:
        self._note_left()
        if not self._stopped:
            self._interrupted.clear()
        while self._commands:
            carry_out, ticket = self._commands.popleft()
            carry_out()
            self._waiting.append(ticket)
        self._state_wish()

    def _note_left(self) -> None:
        """Note where to continue the partitions: at the latest at the first refused record."""
        if not self._reader.has_wish:
            # Otherwise nothing was read since the last wish, which may go back to a refused record.
            read = self._reader.read_from()
            self._left.update(read)
            self._read_now = frozenset(read)
        if self._refused:
            refused, self._refused = self._refused, {}
            for where, offset in refused.items():
                left = self._left.get(where)
                self._left[where] = ReadFrom(offset, None if left is None else left.topic_id)
            self._begin_again()

    def _begin_again(self) -> None:
        self._number += 1
        self._is_caught_up = not self._settings.last_value

    def _state_wish(self) -> None:
        if not self._looked or not self._reads:
            self._reader.want({})
            return
        known = self._known.topics
        for name in known:
            self._names.setdefault(name, StreamTopic(self._settings.name, name))
        self._reader.want(
            {where: self._start(where, known[where[0]].topic_id) for where in self._partitions()}
        )

    def _start(self, where: Partition, topic_id: str | None) -> Start:
        left = self._left.get(where)
        if left is None:
            at = self._first if where in self._initial else From.BEGINNING
            return Start(at, topic_id, self._number)
        if topic_ids_differ(left.topic_id, topic_id):
            # If the partition is read now, the reader itself notices the other id.
            if where not in self._read_now:
                self._sink.made_anew(*where)
                self._left[where] = ReadFrom(0, topic_id)
            return Start(From.BEGINNING, topic_id, self._number)
        return Start(left.offset, topic_id, self._number)

    def _partitions(self) -> list[Partition]:
        known = self._known.topics
        return [(name, number) for name in known for number in range(known[name].partitions)]

    def _on_positions(self, positions: Mapping[tuple[Any, int], ReadFrom]) -> None:
        told = dict(positions)
        if not self._reads:
            for (name, number), left in self._left.items():
                told.setdefault((self._names[name], number), left)
        known = {(self._names.get(name), number) for name, number in self._partitions()}
        if self._listener is not None:
            self._listener(told, self._looked and known <= told.keys())

    # Looks

    def _look_soon(self) -> None:
        self._next_look = min(self._next_look, monotonic() + _RETRY)

    def _look(self) -> None:
        now = monotonic()
        answers = self._answers
        if answers is None:
            if now >= self._next_look:
                self._ask(now)
        elif now >= self._give_up_at or all(each.done() for each in answers.values()):
            self._answers = None
            self._learn(answers)

    def _ask(self, now: float) -> None:
        self._next_look = now + (self._interval if self._looked else _RETRY)
        self._give_up_at = now + self._timeout + _GRACE
        settings = self._settings
        try:
            watch = self._watch()
            if settings.topic is not None:
                self._answers = watch.ask([settings.topic], self._timeout)
                return
            names = sorted(filter(settings.takes, watch.names(self._timeout)))
            self._answers = watch.ask(names, self._timeout) if names else {}
        except (KafkaException, BrokerUnavailable) as error:
            said = kafka_error(error).str() if isinstance(error, KafkaException) else str(error)
            self._connection.on_silence()
            self._facts = self._facts._replace(trouble=said)

    def _learn(self, answers: Mapping[str, Future[Any]]) -> None:
        told, missing = read_answers(answers, 0.0)
        failed = [each for each in answers if each not in told and each not in missing]
        # All starts are fixed at once, so the first check has to find every topic.
        if failed and not (told and self._looked):
            self._facts = self._facts._replace(trouble=_trouble(failed[0], answers[failed[0]]))
            if answers[failed[0]].done() and not self._looked:
                # The brokers refused it: let no channel wait for a start.
                self._resolve_all()
            return
        self._connection.on_answer()
        known = self._known.topics
        # A topic that the pattern does not find any more is missing as well.
        missing |= known.keys() - answers.keys()
        self._known.learn(told)
        gone, self._missing = missing & self._missing & known.keys(), missing
        if not self._looked:
            self._looked = True
            self._initial = frozenset(self._partitions())
            if self._listener is not None:
                # If no topic exists, no position changes, and the listener would not be called.
                self._reader.follow(self._on_positions, self._on_epoch)
        self._note_left()
        self._known.forget(gone)
        partitions = len(self._partitions())
        trouble = "" if known else self._nothing_found()
        self._facts = StreamFacts(tuple(sorted(known)), partitions, 0, trouble)
        self._state_wish()

    def _nothing_found(self) -> str:
        settings = self._settings
        if settings.topic is not None:
            return f"topic {settings.topic} does not exist yet"
        pattern = "" if settings.pattern is None else settings.pattern.pattern
        return f"no topic matches {pattern!r} yet"

    def _resolve_if_settled(self) -> None:
        if self._waiting and (not self._reads or (self._looked and self._reader.settled)):
            self._resolve_all()

    def _resolve_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for ticket in waiting:
            ticket.resolve(None)


def _place(start: StreamStart) -> From | Since:
    if isinstance(start, str):
        return From.END if start == "latest" else From.OLDEST
    return Since(start.timestamp())


def _trouble(name: str, answer: Future[Any]) -> str:
    error = answer.exception() if answer.done() else None
    if isinstance(error, KafkaException):
        return f"{name}: {kafka_error(error).str()}"
    return f"{name}: no broker has answered"
