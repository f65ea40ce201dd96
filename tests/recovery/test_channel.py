"""A tracked channel: its position is exact at every moment, and a slow one loses nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kafka_layer.config.realtime import monotonic
from kafka_layer.delivery.mailbox import Envelope, Mailbox
from kafka_layer.delivery.membership import Membership
from kafka_layer.delivery.wakeups import Wakeups
from kafka_layer.exceptions import LayerClosed, UnreadableRecord
from kafka_layer.messages import Message
from kafka_layer.recovery.channel import State, TrackedChannel
from kafka_layer.recovery.kept_stream import KeptStream
from kafka_layer.recovery.opening import Opening
from kafka_layer.recovery.recent import Key, RecentLog
from kafka_layer.recovery.replay import EVERYBODY, Part, missed_keys, missed_parts
from kafka_layer.transport import ReadFrom
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.position_token import LogPosition
from kafka_layer.wire.record_block import RECORD_BYTES
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic, Where
from tests.support.waiting import PATIENCE

GROUP, ALL, ONE = Topic.SEND_GROUP, Topic.SEND_ALL, Topic.SEND_CONN
WHERES: list[Where] = [(GROUP, 0), (GROUP, 1), (ALL, 0), (ALL, 1)]
GROUPS = ["a", "b", "c", "d"]
ALL_PARTITIONS: list[Key] = [EVERYBODY, (ALL, "1")]
# How the names of messages to one channel begin.
ONE_NAMES = "c", "l"
CAPACITY = 4
NOW = 1_000_000.0
WINDOW = 300.0


class Context:
    """What the tracked channels of one server share; everything is read in the same second."""

    prefix = "channels"
    window = WINDOW
    patience = 240.0
    pause = 0.0

    def __init__(self, most_bytes: int = 1 << 20) -> None:
        self.recent = RecentLog(most_bytes, WINDOW)
        self.recent.move({where: ReadFrom(0, None) for where in WHERES})
        self.membership = Membership()
        self.gaps: list[str] = []
        self.late = 0
        self.unreadable: list[str] = []
        self.open = Opening(
            self.decode, self.patience, self.now, self.count_late, self.count_unreadable
        ).open

    def now(self) -> float:
        return NOW

    def groups(self, mailbox: Mailbox) -> Sequence[str]:
        return self.membership.names(mailbox)

    def users(self, mailbox: Mailbox) -> Sequence[str]:
        return ()

    def hears_all(self) -> bool:
        return True

    def streams_for(self, key: Key) -> Sequence[KeptStream]:
        return ()

    def decode(self, payload: bytes) -> dict[str, Any]:
        if payload == b"unreadable":
            raise UnreadableRecord("undecodable", "made so")
        return {"n": payload.decode()}

    def envelopes(self, records: Iterable[Record]) -> list[Envelope]:
        return [envelope_of(record) for record in records]

    def count_late(self, mailbox: Mailbox) -> None:
        self.late += 1

    def count_unreadable(self, envelope: Envelope, error: UnreadableRecord) -> None:
        self.unreadable.append(error.cause)

    def count_gap(self, mailbox: Mailbox, reason: str) -> None:
        self.gaps.append(reason)


def envelope_of(record: Record, seconds: float = 60.0, before: Any = None) -> Envelope:
    topic, key, value, _, written, partition, offset = record
    place = topic, partition, offset, written
    return Envelope(value or b"", monotonic() + seconds, *place, (key or b"").decode(), before)


class Scene:
    """A tracked channel, the log that a thread reads, and the receive of the channel."""

    def __init__(self, most_bytes: int = 1 << 20) -> None:
        self.loop = asyncio.new_event_loop()
        self.context = self.make_context(most_bytes)
        self.recent, self.membership = self.context.recent, self.context.membership
        self.wakeups = Wakeups()
        self.mailbox = Mailbox("specific.0-a!b", CAPACITY, self.wakeups)
        self.tracked = TrackedChannel(self.mailbox, self.context)
        self.log: list[Record] = []
        self.ends: dict[Where, int] = dict.fromkeys([*WHERES, (ONE, 0)], 0)
        # Read and not routed yet, of the present batch.
        self.unrouted: deque[Record] = deque()
        self.received: list[Message] = []
        self.receive: asyncio.Task[Any] | None = None
        # How many messages were sent to it within its process.
        self.sent = 0

    def make_context(self, most_bytes: int) -> Context:
        return Context(most_bytes)

    def close(self) -> None:
        if self.receive is not None:
            self.receive.cancel()
            self.loop.run_until_complete(asyncio.gather(self.receive, return_exceptions=True))
        self.loop.close()

    def read(self, keys: Sequence[Key], value: bytes | None = None) -> None:
        """Read a batch; it is to be routed. A name of everybody is the number of a partition."""
        assert not self.unrouted
        for topic, name in keys:
            where = topic, partition_of(name, 2) if topic is GROUP else int(name or 0)
            offset = self.ends[where]
            self.ends[where] += 1
            text = value or f"{topic.value[5]}{where[1]}.{offset}".encode()
            key = name.encode() if topic is GROUP else None
            # Records of one batch have one time, as far as milliseconds tell.
            written = NOW + len(self.log) // 8
            self.unrouted.append((topic, key, text, (), written, where[1], offset))
        self.log += self.unrouted
        self.recent.append(list(self.unrouted))

    def route(self, number: int = 1000) -> None:
        """Do what the router does with the next records."""
        self.put(number)
        self.wakeups.flush()
        self.turn()

    def put(self, number: int = 1000) -> None:
        """Put the next records into the mailbox, without waking a receive."""
        for _ in range(min(number, len(self.unrouted))):
            record = self.unrouted.popleft()
            if record[0] is not GROUP or self.mailbox in self.membership.members(groups_of(record)):
                envelope = envelope_of(record, before=self.recent.before(record))
                if not self.mailbox.put(envelope):
                    self.tracked.pass_by(envelope)
        if not self.unrouted:
            self.recent.note_routed()

    def begin(self, early: Sequence[Key], receives: int) -> None:
        """Begin again in a log with older records; the reader reports late where it is."""
        for where in WHERES:
            self.ends[where] = 3
            key = None if where[0] is ALL else b"abcd"[where[1] : where[1] + 1]
            for offset in range(3):
                value = f"{where[0].value[5]}{where[1]}.{offset}".encode()
                self.log.append((where[0], key, value, (), NOW, where[1], offset))
        self.recent.clear()
        self.tracked.begin(self.recent)
        begun = {where: self.ends[where] for where in WHERES}
        for key in early:
            self.read([key])
            self.route()
        for _ in range(receives):
            if self.receive is None:
                self.begin_receive()
        assert all(self.ends[where] >= begun[where] for where in WHERES)
        self.recent.move({where: ReadFrom(self.ends[where], None) for where in WHERES})
        self.tracked.begin(self.recent)

    def send_locally(self) -> None:
        """Do what a send to the channel within its process does."""
        self.sent += 1
        envelope = Envelope(f"l0.{self.sent}".encode(), monotonic() + 60)
        if not self.mailbox.put(envelope):
            self.tracked.pass_by(envelope)
        self.wakeups.flush()
        self.turn()

    def lose(
        self, positions: dict[Where, ReadFrom], untold: Callable[[], None] | None = None
    ) -> None:
        """Do what the server does where the reader goes on elsewhere.

        Args:
            positions: Where.
            untold: Called before the channel is told.
        """
        lost = self.recent.move(positions)
        if untold is not None:
            untold()
        self.tracked.lose(self.recent, lost)
        self.recent.note_routed()

    @property
    def records(self) -> list[Record]:
        """All that was read."""
        return self.log

    @property
    def routed(self) -> Mapping[Where, int]:
        """Up to where that was routed, as the channel can know."""
        return self.recent.routed

    @property
    def is_begun(self) -> bool:
        """Whether all logs have a position."""
        return True

    @property
    def is_routing(self) -> bool:
        """Whether some of it was not routed yet."""
        return bool(self.unrouted)

    @property
    def unkept(self) -> Iterable[Record]:
        """Those of which no recovery can know yet."""
        return ()

    def join(self, group: str) -> None:
        self.tracked.prepare("group_add", group)
        self.tracked.join("group_add", group)
        self.membership.add(group, self.mailbox)
        self.tracked.changed()

    def begin_receive(self) -> None:
        """Let the consumer receive; it gets a message at once, or with a later one."""
        self.receive = self.loop.create_task(self.next_message())
        self.turn()

    async def next_message(self) -> Message:
        """Do what the layer's receive does."""
        while True:
            envelope = self.mailbox.take()
            if envelope is None:
                await self.mailbox.wait()
                continue
            message = self.context.open(self.mailbox, envelope)
            if message is not None:
                return message

    def turn(self) -> None:
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))
        if self.receive is not None and self.receive.done():
            self.received.append(self.receive.result())
            self.receive = None

    @property
    def handed_over(self) -> list[Message]:
        """The messages that the consumer is done with."""
        return self.received if self.receive is not None else self.received[:-1]

    def replayed(self, position: str) -> set[str]:
        """Return which messages a recovery from a position would bring."""
        return self.messages_in(self.missed(position))

    def missed(self, position: str) -> list[Part]:
        """Return the parts of the logs that a recovery from a position would replay."""
        read = LogPosition.read(position, "channels")
        keys = missed_keys(read, self.membership.names(self.mailbox), (), True)
        return missed_parts(read, keys, self.recent.ends)

    def messages_in(self, parts: Iterable[Part]) -> set[str]:
        """Return the messages that a recovery finds in some parts of the logs."""
        return {
            text(record)
            for key, where, first, end in parts
            for record in self.records
            if (record[0], record[5]) == where
            and first <= record[6] < end
            and key in self.addresses(record)
        }

    def addresses(self, record: Record) -> Sequence[Key]:
        """Return the addresses of a record."""
        return (EVERYBODY,) if record[0] is ALL else ((record[0], groups_of(record)),)

    def recovered(self, parts: Iterable[Part]) -> None:
        """Do what a recovery does with the parts that it replayed."""
        floors: dict[Key, dict[Where, int]] = {}
        for key, where, first, end in parts:
            floors.setdefault(key, {})[where] = max(first, end)
        self.tracked.recovered(self.tracked.position(), floors)


class InterruptedLog(RecentLog):
    """Gives another thread a turn when it is asked up to where it is routed."""

    turn: Callable[[], object] | None = None

    @property
    def routed(self) -> Mapping[Where, int]:
        if self.turn is not None:
            turn, self.turn = self.turn, None
            turn()
        return self.__dict__["routed"]

    @routed.setter
    def routed(self, vector: Mapping[Where, int]) -> None:
        self.__dict__["routed"] = vector


def text(record: Record) -> str:
    return (record[2] or b"").decode()


def groups_of(record: Record) -> str:
    """Return the groups that a record is for, each of one letter."""
    return (record[1] or b"").decode()


class Channel(RuleBasedStateMachine):
    """Any course of reading, routing, joining and receiving."""

    def __init__(self) -> None:
        super().__init__()
        self.site = self.make_site()
        # What is addressed to the channel; and what was read and not routed when it joined, of
        # which it may get some: it was sent before.
        self.addressed: set[str] = set()
        self.doubtful: set[str] = set()
        # How many messages came before the reader had reported its positions, or before it joined a
        # group last: their positions are signed.
        self.signed = 0
        # Whether it asks for the position of a message after later ones, too.
        self.asks_late = False
        # Whether it is to be recovered before it receives; what the recovery replays, once it has
        # begun; and what it replayed.
        self.recovers = False
        self.parts: list[Part] | None = None
        self.replayed: set[str] = set()

    def make_site(self) -> Scene:
        return Scene()

    def teardown(self) -> None:
        self.site.close()

    @property
    def groups(self) -> tuple[str, ...]:
        return self.site.membership.names(self.site.mailbox)

    def note(self, records: Iterable[Record]) -> None:
        """Note which of the records that were just read are addressed to the channel."""
        groups = set(self.groups)
        self.addressed |= {
            text(each) for each in records if each[0] is ALL or groups.intersection(groups_of(each))
        }

    @initialize(
        early=st.lists(st.sampled_from([*ALL_PARTITIONS, (GROUP, "a")]), max_size=CAPACITY),
        receives=st.integers(0, CAPACITY),
        recovers=st.booleans(),
        asks_late=st.booleans(),
    )
    def begin(self, early: list[Key], receives: int, recovers: bool, asks_late: bool) -> None:
        self.recovers, receives = recovers, 0 if recovers else receives
        self.asks_late = asks_late
        log = len(self.site.log)
        self.site.begin(early, receives)
        self.note(self.site.log[log + 3 * len(WHERES) :])
        self.signed = len(self.site.received)

    @precondition(lambda self: not self.site.unrouted)
    @rule(
        keys=st.lists(
            st.sampled_from([*((GROUP, group) for group in GROUPS), *ALL_PARTITIONS, (ONE, "")]),
            max_size=8,
        )
    )
    def read(self, keys: list[Key]) -> None:
        self.site.read(keys)
        self.note(self.site.unrouted)
        if not keys:
            self.site.route()

    @precondition(lambda self: self.site.unrouted)
    @rule(number=st.integers(1, 8))
    def route(self, number: int) -> None:
        self.site.route(number)

    @rule()
    def send_locally(self) -> None:
        self.site.send_locally()

    @rule(group=st.sampled_from(GROUPS))
    def join(self, group: str) -> None:
        if group not in self.groups:
            routed = self.site.routed
            self.doubtful |= {
                text(each)
                for each in self.site.records
                if group in groups_of(each) and each[6] >= routed.get((each[0], each[5]), 0)
            }
            self.signed = len(self.site.received)
        self.site.join(group)

    @precondition(lambda self: self.recovers and self.parts is None and self.site.is_begun)
    @rule()
    def begin_recovery(self) -> None:
        """Of what it missed since its own position: the rest is a matter of the recovery."""
        self.parts = self.site.missed(self.site.tracked.position().sign())

    @precondition(lambda self: self.recovers and self.parts is not None)
    @rule()
    def end_recovery(self) -> None:
        assert self.parts is not None
        self.replayed = self.site.messages_in(self.parts)
        self.site.recovered(self.parts)
        self.recovers = False

    @precondition(lambda self: self.site.receive is None and not self.recovers)
    @rule()
    def receive(self) -> None:
        self.site.begin_receive()

    @invariant()
    def each_message_came_once_and_in_order(self) -> None:
        reached: dict[str, int] = {}
        for message in self.site.received:
            assert isinstance(message, Message)
            where, _, offset = message["n"].partition(".")
            assert int(offset) > reached.get(where, -1), self.site.received
            reached[where] = int(offset)
        got = {name for each in self.site.received if not (name := each["n"]).startswith(ONE_NAMES)}
        assert got <= (self.addressed | self.doubtful) - self.replayed
        if self.site.receive is not None and not self.site.is_routing:
            # A receive that waits has nothing to wait for.
            assert self.addressed <= got | self.doubtful | self.replayed

    @invariant()
    def the_position_is_exact(self) -> None:
        handed_over = {message["n"] for message in self.site.handed_over} | self.replayed
        replayed = self.site.replayed(self.site.tracked.position().sign())
        unsure = self.doubtful.union(map(text, self.site.unkept))
        assert replayed - unsure == self.addressed - handed_over - unsure
        assert not replayed & handed_over

    @invariant()
    def the_position_of_the_last_message_is_exact(self) -> None:
        if len(self.site.received) > self.signed and not self.asks_late:
            self.position_is_behind(len(self.site.received))

    @precondition(lambda self: self.asks_late and len(self.site.received) > self.signed)
    @rule(back=st.integers(0, 6))
    def ask_for_the_position_of_a_message(self, back: int) -> None:
        self.position_is_behind(max(self.signed + 1, len(self.site.received) - back))

    def position_is_behind(self, number: int) -> None:
        """Check the position of the last of the first so many messages."""
        received = {message["n"] for message in self.site.received[:number]} | self.replayed
        replayed = self.site.replayed(self.site.received[number - 1].position)
        unsure = self.doubtful.union(map(text, self.site.unkept))
        assert replayed - unsure == self.addressed - received - unsure

    @invariant()
    def it_stays_within_its_capacity(self) -> None:
        assert len(self.site.mailbox) <= CAPACITY
        if self.site.tracked.state is State.LIVE:
            assert self.site.mailbox.capacity == CAPACITY


TestChannel = Channel.TestCase
TestChannel.settings = settings(stateful_step_count=40)


def filled(scene: Scene, number: int) -> list[str]:
    """Have the log hold messages to everybody, more than the mailbox does; return them."""
    for _ in range(number):
        scene.read([EVERYBODY])
        scene.route()
    return [f"a0.{offset}" for offset in range(number)]


def receive(scene: Scene) -> Message:
    scene.begin_receive()
    assert scene.receive is None, "there is no message"
    return scene.received[-1]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene(most_bytes=20 * RECORD_BYTES)
    yield scene
    scene.close()


class TestGaps:
    """A channel that fell too far behind is told so, once."""

    @pytest.mark.parametrize("loss", ["limit", "truncated", "epoch"])
    def test_what_is_gone(self, scene: Scene, loss: str) -> None:
        scene.recent.read_epoch((ALL, 0), 0, 1)
        if loss == "limit":
            filled(scene, 40)
            scene.recent.append([])
        else:
            filled(scene, 10)
            at = ReadFrom(*((50, None) if loss == "truncated" else (0, None)))
            scene.ends[ALL, 0] = at.offset
            scene.lose({(ALL, 0): at})
            scene.recent.read_epoch((ALL, 0), at.offset, 2)
        assert [receive(scene)["n"] for _ in range(CAPACITY)] == ["a0.0", "a0.1", "a0.2", "a0.3"]
        before = scene.tracked.position().sign()
        gap = receive(scene)
        assert gap == {"type": "kafka.gap", "reason": loss}
        assert scene.tracked.state is State.LOST
        assert scene.context.gaps == [loss]
        # Whoever comes back learns the same: the position is that before the gap.
        old = offset_of(before)
        now = scene.tracked.position().sign()
        assert [offset_of(each) for each in (gap.position, now)] == [4, 4]
        assert old == 3
        # In the log before, whatever follows it.
        assert {epochs_of(each) for each in (before, now, gap.position)} == {(1,)}

        scene.begin_receive()
        assert scene.tracked.state is State.LIVE
        assert offset_of(scene.tracked.position().sign()) == scene.ends[ALL, 0]
        scene.read([EVERYBODY])
        scene.route()
        assert scene.received[-1]["n"] == f"a0.{scene.ends[ALL, 0] - 1}"
        assert offset_of(scene.received[-1].position) == scene.ends[ALL, 0]
        assert epochs_of(scene.received[-1].position) == ((1,) if loss == "limit" else (2,))
        assert epochs_of(gap.position) == (1,)

    def test_a_loss_where_nothing_is_addressed_to_it(self, scene: Scene) -> None:
        scene.join("a")
        ours = partition_of("a", 2)
        scene.begin_receive()
        scene.lose({(GROUP, 1 - ours): ReadFrom(7, None)})
        scene.ends[GROUP, 1 - ours] = 7
        assert scene.tracked.state is State.LIVE
        assert scene.tracked.position().topics[GROUP].offsets[1 - ours] == 7

    @pytest.mark.parametrize("replayed", [0, 20])
    def test_places_in_a_log_that_is_gone_hide_nothing_of_the_next(
        self, scene: Scene, replayed: int
    ) -> None:
        ours = GROUP, partition_of("a", 2)
        scene.read([(GROUP, "a")] * 10)
        scene.route()
        scene.join("a")
        if replayed:
            recovered(scene, "a", replayed)
        scene.lose({ours: ReadFrom(0, None)})
        scene.ends[ours] = 0
        scene.recent.read_epoch(ours, 0, 1)
        scene.log.clear()
        assert receive(scene)["reason"] == "epoch"
        scene.begin_receive()
        # More than the mailbox holds: some are read from the recent records.
        scene.read([(GROUP, "a")] * (CAPACITY + 3))
        scene.route()
        got = [scene.received[-1]["n"], *(receive(scene)["n"] for _ in range(CAPACITY + 2))]
        assert got == [text(record) for record in scene.log]
        scene.begin_receive()
        position = scene.tracked.position().sign()
        scene.read([(GROUP, "a")])
        assert scene.replayed(position) == {text(scene.log[-1])}

    @pytest.mark.parametrize("at", [7, 1])
    def test_a_position_from_before_it_is_told_is_not_behind_the_loss(
        self, scene: Scene, at: int
    ) -> None:
        positions: list[str] = []
        scene.read([EVERYBODY] * 2)
        scene.route()
        receive(scene), receive(scene)
        scene.begin_receive()
        scene.lose(
            {(ALL, 0): ReadFrom(at, None)},
            lambda: positions.append(scene.tracked.position().sign()),
        )
        assert [offset_of(each) for each in positions] == [2]

    def test_one_that_waits_is_woken(self, scene: Scene) -> None:
        scene.begin_receive()
        scene.lose({(ALL, 0): ReadFrom(7, None)})
        scene.wakeups.flush()
        scene.turn()
        assert scene.received == [{"type": "kafka.gap", "reason": "truncated"}]

    def test_what_waits_in_a_mailbox_for_too_long(self, scene: Scene) -> None:
        for written, seconds in ((0, -300.0), (1, -300.0), (2, -100.0)):
            scene.read([EVERYBODY])
            scene.mailbox.put(envelope_of(scene.unrouted.popleft(), seconds))
            scene.recent.note_routed()
            assert written == scene.ends[ALL, 0] - 1
        assert receive(scene) == {"type": "kafka.gap", "reason": "expired"}
        # Older than expiry, but not than the window.
        assert receive(scene)["n"] == "a0.2"
        assert scene.context.gaps == ["expired"]


class TestPositions:
    def test_what_was_handed_over_stays_so_when_a_receive_is_cancelled(self, scene: Scene) -> None:
        filled(scene, 1)
        receive(scene)
        scene.begin_receive()
        assert scene.receive is not None
        scene.receive.cancel()
        scene.loop.run_until_complete(asyncio.gather(scene.receive, return_exceptions=True))
        scene.receive = None
        assert offset_of(scene.tracked.position().sign()) == 1

    def test_that_of_a_message_stays_when_the_channel_was_behind_since(self, scene: Scene) -> None:
        filled(scene, 6)
        message = receive(scene)
        # Read and not routed yet: what comes of it once more is to be skipped.
        scene.read([EVERYBODY])
        assert [receive(scene)["n"] for _ in range(6)] == filled_texts(1, 7)
        scene.begin_receive()
        assert scene.tracked.state is State.LIVE
        assert offset_of(message.position) == 1

    def test_that_of_a_message_leaves_out_what_came_before_a_group_was_joined(
        self, scene: Scene
    ) -> None:
        """Also when the channel was behind, and is LIVE, since."""
        assert partition_of("a", 2) == partition_of("b", 2)
        scene.join("a")
        scene.read([(GROUP, "a")] * (CAPACITY + 2) + [(GROUP, "b")])
        scene.route()
        scene.join("b")
        message = [receive(scene) for _ in range(CAPACITY + 2)][-1]
        scene.begin_receive()
        assert scene.tracked.state is State.LIVE
        assert scene.replayed(message.position) == set()


class TestSlowReaders:
    def test_a_take_that_has_just_begun(self, scene: Scene) -> None:
        """It takes the sign to read on for a message."""
        scene.read([EVERYBODY])
        scene.unrouted.clear()
        scene.tracked.pass_by(None)
        scene.recent.note_routed()
        taken = Mailbox.take(scene.mailbox)
        assert taken is not None
        assert scene.context.open(scene.mailbox, taken) is None
        assert receive(scene)["n"] == "a0.0"
        assert scene.context.unreadable == []

    def test_many_messages_of_one_group_lie_before_one_of_another(self, scene: Scene) -> None:
        """They lie in one partition; what is read of it ends where the first group's part does."""
        assert partition_of("a", 2) == partition_of("b", 2)
        scene.join("a")
        scene.join("b")
        scene.read([(GROUP, "a")] * 12 + [(GROUP, "b")])
        scene.route()
        received = [receive(scene)["n"] for _ in range(13)]
        assert received == [text(record) for record in scene.log]

    def test_one_that_catches_up_lets_others_run(self, scene: Scene) -> None:
        """Also where a task receives and awaits nothing else."""
        missed, counts = filled(scene, 15), [0]

        async def receive() -> None:
            while len(scene.received) < len(missed):
                scene.received.append(await scene.next_message())

        async def others() -> None:
            while len(scene.received) < len(missed):
                counts.append(len(scene.received))
                await asyncio.sleep(0)

        async def both() -> None:
            await asyncio.wait_for(asyncio.gather(receive(), others()), PATIENCE)

        scene.loop.run_until_complete(both())
        assert [message["n"] for message in scene.received] == missed
        counts.append(len(missed))
        assert max(later - earlier for earlier, later in pairwise(counts)) <= CAPACITY

    def test_a_group_that_is_left_and_joined_again_just_after_a_recovery(
        self, scene: Scene
    ) -> None:
        """What waits from before is not lost."""
        scene.join("a")
        scene.read([(GROUP, "a")])
        recovered(scene, "a", 1)
        scene.route()
        scene.read([(GROUP, "a")])
        scene.route()
        scene.membership.discard("a", scene.mailbox)
        scene.join("a")
        assert receive(scene)["n"] == text(scene.log[1])

    def test_the_same_where_the_server_before_was_ahead(self, scene: Scene) -> None:
        """What that one told does not come again."""
        scene.join("a")
        recovered(scene, "a", 2)
        scene.membership.discard("a", scene.mailbox)
        scene.join("a")
        assert scene.replayed(scene.tracked.position().sign()) == set()
        scene.read([(GROUP, "a")] * 3)
        scene.route()
        assert receive(scene)["n"] == text(scene.log[2])

    def test_a_flush_just_after_the_mailbox_was_full(self, scene: Scene) -> None:
        scene.begin_receive()
        scene.read([EVERYBODY] * (CAPACITY + 1))
        scene.put()
        scene.mailbox.clear()
        scene.wakeups.flush()
        scene.turn()
        scene.read([EVERYBODY])
        scene.route()
        assert scene.received, "the receive waits for ever"


def recovered(scene: Scene, group: str, end: int) -> None:
    """Have the channel know that all of a group was replayed, up to an offset."""
    floors: dict[Key, dict[Where, int]] = {(GROUP, group): {(GROUP, partition_of(group, 2)): end}}
    scene.tracked.recovered(scene.tracked.position(), floors)


class TestMessagesToOneChannel:
    """They are in no topic that all servers read: they expire and are refused as ever."""

    def test_they_expire(self, scene: Scene) -> None:
        scene.mailbox.put(Envelope(b"1", monotonic() - 1))
        scene.mailbox.put(Envelope(b"2", monotonic() + 60))
        message = receive(scene)
        assert (message["n"], message.place) == ("2", "")
        assert scene.context.late == 1

    def test_the_position_stays_behind_what_was_handed_over_before(self, scene: Scene) -> None:
        scene.begin_receive()
        scene.read([EVERYBODY, (ONE, ""), (ONE, ""), (ALL, "1")])
        for number in range(2):
            scene.route(1)
            scene.begin_receive()
            assert scene.received[-1]["n"] == ["a0.0", "c0.0"][number]
        assert scene.replayed(scene.tracked.position().sign()) == {"a1.0"}
        scene.route(1)
        assert scene.received[-1]["n"] == "c0.1"
        assert scene.replayed(scene.tracked.position().sign()) == {"a1.0"}

    @pytest.mark.parametrize("kind", ["c0", "l0"])
    def test_the_position_of_one_is_asked_for_later(self, scene: Scene, kind: str) -> None:
        scene.begin_receive()
        scene.read([EVERYBODY, *([(ONE, "")] if kind == "c0" else []), EVERYBODY, EVERYBODY])
        scene.route(1)
        scene.begin_receive()
        if kind == "c0":
            scene.route(1)
        else:
            scene.send_locally()
        assert scene.received[-1]["n"].startswith(kind)
        scene.begin_receive()
        assert scene.replayed(scene.tracked.position().sign()) == {"a0.1", "a0.2"}
        scene.route()
        scene.begin_receive()
        assert scene.received[-1]["n"] == "a0.2"
        assert scene.replayed(scene.received[1].position) == {"a0.1", "a0.2"}

    def test_one_within_the_process_hides_no_other_after_a_recovery(self, scene: Scene) -> None:
        scene.join("a")
        recovered(scene, "a", 100)
        scene.begin_receive()
        scene.read([EVERYBODY, EVERYBODY])
        scene.route(1)
        scene.send_locally()
        scene.begin_receive()
        assert [each["n"] for each in scene.received] == ["a0.0", "l0.1"]
        assert scene.replayed(scene.tracked.position().sign()) == {"a0.1"}

    def test_the_channel_falls_behind_while_one_is_opened(self, scene: Scene) -> None:
        """Its position is before what the reading thread passes by at that moment."""
        for _ in range(CAPACITY):
            scene.send_locally()
        envelope = scene.mailbox.take()
        assert envelope is not None

        def turn() -> None:
            scene.send_locally()
            scene.read([EVERYBODY])
            scene.route()

        log: Any = scene.recent
        log.__class__, log.turn = InterruptedLog, turn
        message = scene.context.open(scene.mailbox, envelope)
        assert message is not None
        assert scene.tracked.state is State.BEHIND
        assert scene.replayed(message.position) == {"a0.0"}

    def test_a_mailbox_full_of_them_brings_none_before_them_again(self, scene: Scene) -> None:
        scene.begin_receive()
        scene.read([EVERYBODY, *[(ONE, "")] * (CAPACITY + 2), EVERYBODY])
        for _ in range(2):
            scene.route(1)
            scene.begin_receive()
        scene.route(1)
        assert [each["n"] for each in scene.received] == ["a0.0", "c0.0", "c0.1"]
        scene.route()
        assert scene.tracked.state is State.BEHIND
        while scene.receive is None:
            scene.begin_receive()
        assert [each["n"] for each in scene.received].count("a0.0") == 1
        assert scene.received[-1]["n"] == "a0.1"

    def test_one_that_overtakes_others_leaves_them_to_be_replayed(self, scene: Scene) -> None:
        names = filled(scene, 10)
        receive(scene)
        scene.read([(ONE, "")])
        scene.route()
        while receive(scene)["n"] != "c0.0":
            pass
        taken = [each["n"] for each in scene.received[:-1]]
        assert len(taken) < len(names)
        assert scene.replayed(scene.tracked.position().sign()) == {*names[len(taken) :]}

    def test_they_find_room_while_the_channel_is_behind(self, scene: Scene) -> None:
        filled(scene, 10)
        direct = Envelope(b"direct", monotonic() + 60)
        assert not scene.mailbox.put(direct)
        assert not scene.tracked.pass_by(direct)
        receive(scene)
        assert scene.tracked.pass_by(direct)
        received = [receive(scene)["n"] for _ in range(10)]
        assert received.index("direct") == 3
        assert [each for each in received if each != "direct"] == filled_texts(1, 10)


def test_what_cannot_be_decoded_is_counted_once_and_skipped(scene: Scene) -> None:
    scene.read([EVERYBODY], value=b"unreadable")
    scene.route()
    filled(scene, 1)
    assert receive(scene)["n"] == "a0.1"
    assert scene.context.unreadable == ["undecodable"]


def test_a_message_that_is_too_old_for_a_mailbox_is_read_from_the_log(scene: Scene) -> None:
    scene.begin_receive()
    scene.read([EVERYBODY])
    scene.unrouted.clear()
    scene.tracked.pass_by(None)
    scene.recent.note_routed()
    scene.wakeups.flush()
    scene.turn()
    assert scene.received[-1]["n"] == "a0.0"


def test_a_closed_mailbox_stays_closed(scene: Scene) -> None:
    filled(scene, 10)
    scene.mailbox.close(LayerClosed("closed"))
    with pytest.raises(LayerClosed):
        receive(scene)
    assert not scene.mailbox.put(envelope_of(scene.log[0]))


def test_a_message_before_the_reader_reported_its_positions_knows_the_other_partitions(
    scene: Scene,
) -> None:
    scene.begin([EVERYBODY, EVERYBODY], receives=1)
    early = receive(scene)
    assert [each["n"] for each in scene.received] == ["a0.3", "a0.4"]
    assert scene.replayed(scene.tracked.position().sign()) == {"a0.4"}
    # The position of the second is asked for after the channel was behind and has caught up.
    scene.read([EVERYBODY] * (CAPACITY + 1))
    scene.route()
    assert scene.tracked.state is State.BEHIND
    while scene.receive is None:
        scene.begin_receive()
    assert scene.tracked.state is State.LIVE
    assert scene.replayed(early.position) == {*filled_texts(5, 10)}


def filled_texts(first: int, end: int) -> list[str]:
    return [f"a0.{offset}" for offset in range(first, end)]


def offset_of(position: str) -> int:
    return LogPosition.read(position, "channels").topics[ALL].offsets[0]


def epochs_of(position: str) -> tuple[int, ...]:
    return LogPosition.read(position, "channels").topics[ALL].epochs[:1]
