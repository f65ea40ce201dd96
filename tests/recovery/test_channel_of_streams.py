"""A tracked channel that follows a stream: exact in both logs, in whatever order they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from kafka_layer.config.realtime import monotonic
from kafka_layer.delivery.mailbox import Envelope
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.recovery.channel import State, TrackedChannel
from kafka_layer.recovery.kept_stream import KeptStream
from kafka_layer.recovery.mailbox import SharedMailbox
from kafka_layer.recovery.recent import Key
from kafka_layer.recovery.replay import EVERYBODY, Part, missed_keys, missed_stream_parts
from kafka_layer.recovery.stream_log import Keeper
from kafka_layer.streams.payload import StreamPayload
from kafka_layer.transport import ReadFrom
from kafka_layer.wire.position_token import LogPosition
from kafka_layer.wire.record_block import RECORD_BYTES
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import StreamTopic, Where
from tests.recovery.test_channel import (
    ALL,
    GROUP,
    NOW,
    Channel,
    Context,
    Scene,
    filled,
    groups_of,
    text,
)

TOPIC = StreamTopic("orders", "shop.orders")
PARTITIONS = 2


class Payload(StreamPayload):
    """What is in an envelope of a stream."""

    __slots__ = ("made_of",)

    def __init__(self, record: Any) -> None:
        self.made_of = record

    @property
    def record(self) -> Any:
        return self.made_of

    def decode(self) -> None:
        if self.record[2] == b"unreadable":
            raise UnreadableRecord("undecodable", "made so")


class Stream:
    """A stream whose records are for the groups that its values name, besides an offset."""

    name = "orders"
    stops_at_errors = False
    asks_registry = False

    def __init__(self) -> None:
        self.keeper: Keeper | None = None
        self.is_late = False
        self.tell: Callable[[Keeper], object] = lambda keeper: None
        self.errors = 0

    def concerns(self, key: Key) -> bool:
        return key[0] is GROUP and key[1] != "d"

    def addresses(self, record: Record) -> Sequence[Key]:
        return tuple((GROUP, name) for name in groups_of(record))

    def payload(self, record: Any) -> Any:
        return Payload(record)

    def count_error(self, record: Record, error: Exception) -> None:
        self.errors += 1

    def keep(self, keeper: Keeper) -> None:
        self.keeper = keeper
        if not self.is_late:
            self.tell(keeper)


class ContextOfStreams(Context):
    """What the tracked channels of a server with a stream share."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.stream = Stream()
        self.kept = KeptStream(
            self.stream, most_bytes, 300.0, 60.0, 0.5, lambda *question: Ticket(), self.on_moved
        )
        self.channels: list[TrackedChannel] = []

    def on_moved(self, stream: KeptStream, *at: object) -> None:
        for channel in self.channels:
            channel.begin(stream.log)

    def streams_for(self, key: Key) -> list[KeptStream]:
        return [self.kept] if self.kept.concerns(key) else []

    def decode(self, payload: Any) -> dict[str, Any]:
        return super().decode(payload.record[2] if isinstance(payload, Payload) else payload)

    def envelopes(self, records: Any) -> list[Envelope]:
        found = []
        for record in records:
            if isinstance(record[0], StreamTopic):
                envelope = self.kept.envelope(record)
                found += [] if envelope is None else [envelope]
            else:
                found += super().envelopes([record])
        return found


class StreamScene(Scene):
    """A scene with a second log, which a thread of its own reads and routes."""

    def __init__(self, most_bytes: int = 1 << 20) -> None:
        self.most_bytes = most_bytes
        super().__init__()
        self.kept = self.context.kept
        self.kept.stream.tell = self.tell
        self.context.channels.append(self.tracked)
        self.stream_records: list[Record] = []
        self.stream_ends = [0] * PARTITIONS
        self.unrouted_stream: deque[Record] = deque()
        # What the mailbox had no room for before the stream was kept.
        self.dropped: set[str] = set()

    def make_context(self, most_bytes: int) -> ContextOfStreams:
        return ContextOfStreams(self.most_bytes)

    context: ContextOfStreams

    def tell(self, keeper: Keeper) -> None:
        """Do what the stream does when it begins to be kept."""
        ends = dict(enumerate(self.stream_ends))
        for record in self.unrouted_stream:
            ends[record[5]] = min(ends[record[5]], record[6])
        keeper.begun({(TOPIC, number): ReadFrom(end, None) for number, end in ends.items()})

    def write(self, records: Sequence[tuple[str, int]], value: bytes | None = None) -> None:
        """Have the thread read a batch; each record is for some groups, in a partition."""
        for groups, number in records:
            offset = self.stream_ends[number]
            self.stream_ends[number] += 1
            # Offsets of markers are missing.
            record: Any = (
                TOPIC,
                groups.encode(),
                value or f"s{number}.{offset}".encode(),
                (),
                NOW - 1000 * number,
                number,
                offset,
            )
            self.stream_records.append(record)
            self.unrouted_stream.append(record)

    def deliver(self, number: int = 1000) -> None:
        """Do what the stream does with the next records."""
        log = self.kept.log
        for _ in range(min(number, len(self.unrouted_stream))):
            record: Any = self.unrouted_stream.popleft()
            addresses = self.kept.stream.addresses(record)
            if self.kept.is_begun:
                log.append(record, addresses)
            if any(self.mailbox in self.membership.members(name) for _, name in addresses):
                envelope = Envelope(Payload(record), monotonic() + 60)
                if self.kept.is_begun:
                    envelope.place = record[0], record[5], record[6], record[4]
                    envelope.key, envelope.before = addresses, log.before(record)
                if not self.mailbox.put(envelope):
                    is_put = self.tracked.pass_by(envelope)
                    if not is_put and not self.kept.is_begun:
                        self.dropped.add(text(record))
        if not self.unrouted_stream and self.kept.is_begun:
            log.note_routed()
        self.wakeups.flush()
        self.turn()

    @property
    def records(self) -> list[Record]:
        return [*self.log, *self.stream_records]

    @property
    def routed(self) -> Mapping[Where, int]:
        return {**self.recent.routed, **self.kept.log.routed}

    @property
    def is_begun(self) -> bool:
        return self.kept.is_begun or self.kept.stream.keeper is None

    @property
    def is_routing(self) -> bool:
        return bool(self.unrouted or self.unrouted_stream)

    @property
    def unkept(self) -> Iterable[Record]:
        return self.unrouted_stream if self.is_begun else self.stream_records

    def missed(self, position: str) -> list[Part]:
        parts = super().missed(position)
        read = LogPosition.read(position, "channels")
        stream = read.streams.get(self.kept.mark)
        if stream is None or stream.topics is None:
            return parts
        keys = missed_keys(read, self.membership.names(self.mailbox), (), True)
        keys = [key for key in keys if self.kept.concerns(key)]
        return [*parts, *missed_stream_parts(stream, keys, self.kept.log.ends)]

    def addresses(self, record: Record) -> Sequence[Key]:
        if isinstance(record[0], StreamTopic):
            return self.kept.stream.addresses(record)
        return super().addresses(record)


class ChannelOfStreams(Channel):
    """The same with a second thread, which reads and routes the records of a stream."""

    site: StreamScene

    def make_site(self) -> StreamScene:
        return StreamScene()

    @initialize(is_late=st.booleans())
    def begin_stream(self, is_late: bool) -> None:
        self.site.kept.stream.is_late = is_late

    @precondition(lambda self: not self.site.is_begun and not self.site.unrouted_stream)
    @rule()
    def tell(self) -> None:
        self.site.tell(self.site.kept)
        # The positions of messages from before it have no place in the stream.
        self.signed = len(self.site.received)

    @precondition(lambda self: not self.site.unrouted_stream)
    @rule(
        records=st.lists(
            st.tuples(st.sampled_from(["a", "b", "ab", "bc", "", "x"]), st.integers(0, 1)),
            min_size=1,
            max_size=8,
        )
    )
    def write(self, records: list[tuple[str, int]]) -> None:
        self.site.write(records)
        self.note(self.site.unrouted_stream)

    @precondition(lambda self: self.site.unrouted_stream)
    @rule(number=st.integers(1, 6))
    def deliver(self, number: int) -> None:
        self.site.deliver(number)
        self.doubtful |= self.site.dropped


TestChannelOfStreams = ChannelOfStreams.TestCase
TestChannelOfStreams.settings = settings(stateful_step_count=40)


@pytest.fixture
def scene() -> Any:
    scene = StreamScene(most_bytes=20 * RECORD_BYTES)
    yield scene
    scene.close()


def test_a_channel_that_no_stream_reaches_stays_as_it_was(scene: StreamScene) -> None:
    scene.join("d")
    assert not isinstance(scene.mailbox, SharedMailbox)
    assert scene.tracked.position().streams == {}
    assert scene.context.stream.keeper is None
    scene.join("a")
    assert isinstance(scene.mailbox, SharedMailbox)
    assert [each.topics for each in scene.tracked.position().streams.values()] != [None]


def test_that_of_a_message_stays_when_others_were_taken_since(scene: StreamScene) -> None:
    scene.join("a")
    for number in range(2):
        scene.write([("a", number)])
        scene.deliver()
        scene.read([(GROUP, "a")])
        scene.route()
    for _ in range(4):
        scene.begin_receive()
    names = [each["n"] for each in scene.received]
    for number, message in enumerate(scene.received):
        assert scene.replayed(message.position) == {*names[number + 1 :]}


@pytest.mark.parametrize("is_sent_locally", [False, True])
def test_what_was_handed_over_before_it_followed_a_stream(
    scene: StreamScene, is_sent_locally: bool
) -> None:
    """In the batch that is being routed, so that its end is not reached."""
    scene.join("d")
    scene.read([(GROUP, "d"), EVERYBODY, (ALL, "1")])
    for _ in range(2):
        scene.begin_receive()
        scene.route(1)
    scene.begin_receive()
    if is_sent_locally:
        scene.send_locally()
    scene.join("a")
    scene.write([("a", 0)])
    scene.deliver()
    if is_sent_locally:
        scene.begin_receive()
    message = scene.received[-1]
    assert message["n"] == "s0.0"
    assert scene.replayed(message.position) == {"a1.0"}
    scene.begin_receive()
    assert scene.replayed(scene.tracked.position().sign()) == {"a1.0"}


def test_what_was_replayed_does_not_come_for_a_group_that_was_joined_since(
    scene: StreamScene,
) -> None:
    scene.join("b")
    scene.write([("bc", 0)])
    scene.deliver()
    missed = scene.missed(scene.tracked.position().sign())
    assert scene.messages_in(missed) == {"s0.0"}
    scene.recovered(missed)
    scene.join("c")
    scene.begin_receive()
    assert scene.received == []
    scene.write([("bc", 0)])
    scene.deliver()
    assert [each["n"] for each in scene.received] == ["s0.1"]


def test_what_a_stream_lost_is_told(scene: StreamScene) -> None:
    scene.join("a")
    scene.write([("a", 0)] * 3)
    scene.deliver()
    log = scene.kept.log
    log.lose((TOPIC, 0), "truncated")
    lost = log.move({(TOPIC, 0): ReadFrom(9, None)})
    assert log.routed[TOPIC, 0] == 3
    scene.tracked.lose(log, lost)
    log.note_routed()
    got = []
    for _ in range(4):
        scene.begin_receive()
        got.append(scene.received[-1])
    assert [each.get("n") for each in got] == ["s0.0", "s0.1", "s0.2", None]
    assert got[-1] == {"type": "kafka.gap", "reason": "truncated"}


def test_what_waits_in_a_mailbox_for_too_long(scene: StreamScene) -> None:
    scene.join("a")
    scene.write([("a", 0)] * 3)
    scene.deliver()
    for envelope in list(scene.mailbox.waiting())[:2]:
        envelope.deadline -= 360.0
    got = []
    for _ in range(2):
        scene.begin_receive()
        got.append(scene.received[-1])
    assert got[0] == {"type": "kafka.gap", "reason": "expired"}
    # The position stays before what was lost, until that is handled.
    assert scene.replayed(got[0].position) == {"s0.0", "s0.1", "s0.2"}
    assert got[1]["n"] == "s0.2"
    assert scene.context.gaps == ["expired"]


def test_a_record_that_cannot_be_decoded_is_passed_by_where_it_reads_on(
    scene: StreamScene,
) -> None:
    scene.join("a")
    scene.write([("a", 0)] * 5)
    scene.deliver()
    scene.write([("a", 0)], value=b"unreadable")
    scene.write([("a", 0)])
    scene.deliver()
    got = []
    for _ in range(6):
        scene.begin_receive()
        got.append(scene.received[-1]["n"])
    assert got == ["s0.0", "s0.1", "s0.2", "s0.3", "s0.4", "s0.6"]
    assert scene.context.stream.errors == 1


def test_what_was_handed_over_of_a_batch_is_not_read_again(scene: StreamScene) -> None:
    scene.join("a")
    scene.read([(GROUP, "a")] * 2)
    scene.route(1)
    scene.begin_receive()
    scene.write([("a", 0)] * 6)
    scene.deliver(1)
    scene.begin_receive()
    # The mailbox is full while the other thread is within its batch.
    scene.deliver()
    assert scene.tracked.state is State.BEHIND
    scene.route()
    for _ in range(6):
        scene.begin_receive()
    got = [each["n"] for each in scene.received]
    assert sorted(got) == sorted([*map(text, scene.log), *map(text, scene.stream_records)])


def test_what_came_before_the_stream_was_kept_has_its_place_afterwards(
    scene: StreamScene,
) -> None:
    """A join that did not wait until the stream had told where it is."""
    scene.context.stream.is_late = True
    scene.join("a")
    scene.write([("a", 0), ("a", 0), ("a", 1)])
    scene.deliver()
    scene.begin_receive()
    assert [each.topics for each in scene.tracked.position().streams.values()] == [None]
    scene.tell(scene.kept)
    # The first is in hand, the others wait.
    left = ["s0.0", "s0.1", "s1.0"]
    for number in range(3):
        if number:
            scene.begin_receive()
        assert scene.received[-1]["n"] == left[number]
        assert scene.replayed(scene.tracked.position().sign()) == {*left[number:]}
        assert scene.replayed(scene.received[-1].position) == {*left[number + 1 :]}
    scene.read([EVERYBODY])
    scene.route()
    scene.begin_receive()
    assert scene.received[-1]["n"] == "a0.0"
    assert scene.replayed(scene.received[-1].position) == set()


def test_a_channel_that_is_behind_when_the_stream_is_kept_reads_on(scene: StreamScene) -> None:
    scene.context.stream.is_late = True
    scene.join("a")
    names = filled(scene, 10)
    scene.write([("a", 0)] * 2)
    scene.deliver()
    assert scene.tracked.state is State.BEHIND
    scene.tell(scene.kept)
    scene.write([("a", 0)])
    scene.deliver()
    while scene.receive is None:
        scene.begin_receive()
    assert {each.get("n") for each in scene.received} == {*names, "s0.2"}
