"""Commands as a sink of control records: whom they address, and what cannot be read."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.registry import Registry
from kafka_layer.delivery.tickets import Ticket, run_blocking
from kafka_layer.exceptions import GroupAckTimeout, LayerClosed
from kafka_layer.messages import Position
from kafka_layer.observe.counters import Stats
from kafka_layer.server.clock import BrokerClock
from kafka_layer.server.commands import Commands
from kafka_layer.server.identity import Identity
from kafka_layer.server.sending import Sender
from kafka_layer.wire.codec import Codec
from kafka_layer.wire.encryption import Encryption
from kafka_layer.wire.names import ServerName
from kafka_layer.wire.records import ProducerRecord, Record
from kafka_layer.wire.topics import Topic
from tests.support.steps import waits

ASKER = ServerName(1, "abcdef02")


class Site:
    """One server's commands, and the records that they write.

    Attributes:
        writes: Whether records are reported as written.
    """

    def __init__(self, partition: int = 0, timings: Timings | None = None, **config: Any) -> None:
        self.writes = False
        self.config = LayerConfig.from_keywords(bootstrap_servers="a:1", **config).timed(
            timings or Timings()
        )
        self.identity = Identity()
        self.identity.take(partition)
        self.codec = Codec("msgpack")
        self.encryption = Encryption(self.config.symmetric_encryption_keys)
        self.registry = Registry(self.config)
        self.stats = Stats()
        self.clock = BrokerClock()
        self.written: list[ProducerRecord] = []
        self.flushed: list[float] = []
        sender = Sender(self.config, self, self.stats)  # type: ignore[arg-type]
        sender.is_open = True
        self.commands = Commands(
            self.config,
            self.identity,
            self.registry,
            self.codec,
            self.encryption,
            sender,
            self.clock,
            self.stats,
            lambda topic: 3,
            self.flushed.append,
        )
        self._offsets = itertools.count()

    @property
    def name(self) -> str:
        return str(self.identity.name)

    def produce(
        self,
        record: ProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        """Take a record, as a transport does."""
        self.written.append(record)
        if self.writes and ticket is not None:
            ticket.resolve(Position("topic", 0, next(self._offsets), 0.0))

    def record(self, topic: Topic, key: str | None, value: Any, **how: Any) -> Record:
        """Return a record that another server wrote."""
        payload = value if isinstance(value, bytes) else self.codec.encode(value)
        if "encrypted" not in how:
            payload = self.encryption.encrypt(topic, key, payload)
        raw = how.get("raw_key", None if key is None else key.encode())
        timestamp = self.clock.now() - how.get("age", 0.0)
        return topic, raw, payload, (), timestamp, 0, next(self._offsets)

    def answers(self) -> list[dict[str, Any]]:
        """Return what was answered, decoded."""
        return [
            self.codec.decode(self.encryption.decrypt(topic, key, value))
            for topic, key, value, _, _ in self.written
            if topic is Topic.ACK
        ]

    def command(self, **fields: Any) -> dict[str, Any]:
        return {
            "command": "group_add",
            "name": "room",
            "channel": self.channel,
            "reply_to": str(ASKER),
            "within": 5,
            "id": 7,
            **fields,
        }

    channel = "specific.0-abcdef01!x"


@pytest.fixture(params=[None, ["secret"]], ids=["plain", "encrypted"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(symmetric_encryption_keys=request.param)


def counted(site: Site, name: str) -> int:
    return site.stats.snapshot().get(name, 0)


def test_a_command_is_carried_out_and_answered(site: Site) -> None:
    channel = site.registry.new_channel("specific", site.identity.require())
    value = site.command(channel=str(channel))
    site.commands.deliver([site.record(Topic.GROUP_MGMT, site.name, value)])
    assert len(site.registry.groups) == 1
    assert site.answers() == [{"id": 7}]
    ((topic, key, _, partition, _),) = site.written
    assert (topic, key, partition) == (Topic.ACK, str(ASKER), ASKER.partition)


def test_a_command_for_another_server_is_skipped(site: Site) -> None:
    site.commands.deliver(
        [site.record(Topic.GROUP_MGMT, "0-ffffffff", site.command(), encrypted=False)]
    )
    assert not site.written
    assert not site.stats.by_name("dropped")


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"command": "group_rename"}, 1),
        ({"within": 1.0, "age": 30.0}, 0),
        ({"reply_to": "nobody"}, 0),
    ],
    ids=["unknown", "late", "no asker"],
)
def test_a_command_that_cannot_be_carried_out(
    site: Site, fields: dict[str, Any], answers: int
) -> None:
    age = fields.get("age", 0.0)
    value = site.command(**{name: each for name, each in fields.items() if name != "age"})
    site.commands.deliver([site.record(Topic.GROUP_MGMT, site.name, value, age=age)])
    assert len(site.answers()) == answers
    assert len(site.registry.groups) == 0


def test_a_command_without_a_limit_is_carried_out_however_late(site: Site) -> None:
    """As discards are, whose askers were told that they succeeded."""
    value = site.command(command="group_discard")
    del value["within"]
    site.commands.deliver([site.record(Topic.GROUP_MGMT, site.name, value, age=30.0)])
    assert site.answers() == [{"id": 7}]


def test_what_cannot_be_read_costs_none_of_the_others(site: Site) -> None:
    good = site.record(Topic.GROUP_MGMT, site.name, site.command())
    bad = [
        site.record(Topic.GROUP_MGMT, site.name, b"\xff\xff"),
        site.record(Topic.ACK, site.name, b"", encrypted=False),
        site.record(Topic.ACK, "x", {}, raw_key=b"\xff"),
    ]
    site.commands.deliver([*bad, good])
    assert len(site.answers()) == 1
    assert sum(site.stats.by_name("dropped").values()) == 3


class TestRollCall:
    def test_it_is_written_to_every_inbox_and_for_older_servers_to_all(self, site: Site) -> None:
        site.commands.roll_call(0.0)
        inboxes = [each for each in site.written if each[0] is Topic.GROUP_MGMT]
        assert [(key, partition) for _, key, _, partition, _ in inboxes] == [
            ("*", 0),
            ("*", 1),
            ("*", 2),
        ]
        (to_all,) = [each for each in site.written if each[0] is Topic.SEND_ALL]
        assert to_all[4] == [("command", b"who")]
        value = site.codec.decode(site.encryption.decrypt(Topic.SEND_ALL, None, to_all[2]))
        assert value["inboxes"] == 3

    def test_it_is_answered_in_the_inbox(self, site: Site) -> None:
        value = {"command": "who", "id": 3, "reply_to": str(ASKER), "inboxes": 3}
        site.commands.deliver([site.record(Topic.GROUP_MGMT, "*", value)])
        assert site.answers() == [
            {"id": 3, "server": site.name, "channels": 0, "groups": 0, "users": 0, "replaced": 0}
        ]

    @pytest.mark.parametrize(
        ("inboxes", "answers"), [({}, 1), ({"inboxes": 3}, 0), ({"inboxes": 0}, 1)]
    )
    def test_the_one_to_all_is_answered_if_the_inbox_has_none(
        self, site: Site, inboxes: dict[str, int], answers: int
    ) -> None:
        value = {"command": "who", "id": 3, "reply_to": str(ASKER), **inboxes}
        site.commands.on_broadcast("", site.codec.encode(value), 0.0)
        assert len(site.answers()) == answers


class TestStreams:
    """A command for a stream, which every server carries out."""

    def order(self, **fields: Any) -> dict[str, Any]:
        order = {"command": "stream", "action": "pause", "stream": "orders", "within": 5, "id": 3}
        return {**order, "reply_to": str(ASKER), **fields}

    def test_it_is_answered_at_once_and_when_it_is_done(self, site: Site) -> None:
        done: Ticket[None] = Ticket()
        site.commands.steer_stream = lambda value: done
        site.commands.deliver([site.record(Topic.GROUP_MGMT, "*", self.order())])
        taken = {"id": 3, "server": site.name, "taken": True}
        assert site.answers() == [taken]
        done.resolve(None)
        assert site.answers() == [taken, {"id": 3, "server": site.name}]

    def test_a_server_without_the_stream_says_so(self, site: Site) -> None:
        site.commands.deliver([site.record(Topic.GROUP_MGMT, "*", self.order())])
        error = "this server reads no stream 'orders'"
        assert site.answers() == [{"id": 3, "server": site.name, "error": error}]

    def test_one_that_its_asker_has_given_up_is_not_carried_out(self, site: Site) -> None:
        asked: list[object] = []
        site.commands.steer_stream = lambda value: asked.append(value) or Ticket.resolved(None)
        site.commands.deliver([site.record(Topic.GROUP_MGMT, "*", self.order(), age=6.0)])
        assert not asked
        assert counted(site, "dropped.expired") == 1


@pytest.mark.parametrize("silent", [False, True], ids=["unknown", "silent"])
def test_a_discard_that_is_not_written_fails(silent: bool) -> None:
    """Also one for a server that gave no answer lately, where no answer is waited for."""
    site = Site(ack_timeout=0.1)
    change = site.commands.change
    for _ in range(1 + silent):
        with pytest.raises(GroupAckTimeout):
            run_blocking(change(ASKER, "group_discard", "room", site.channel))
    assert site.commands.silent == 1


def test_a_hundred_discards_for_as_many_servers_that_are_gone_share_their_wait() -> None:
    """After a crash or a deployment, by a job that cleans up."""
    wait = 0.1
    site = Site(ack_timeout=wait, timings=Timings(discard=wait, discard_least=wait / 20))
    site.writes = True
    waited = 0.0
    for number in range(100):
        owner = ServerName(1, f"{number:08x}")
        waited += waits(site.commands.change(owner, "group_discard", "room", site.channel))
    assert waited < 100 * wait / 4
    assert len(site.written) == site.commands.silent == 100


@pytest.mark.parametrize("silence", [60.0, 0.0], ids=["lately", "long ago"])
def test_a_silence_of_long_ago_shortens_no_wait(silence: float) -> None:
    timings = Timings(discard=0.01, discard_least=0.01, silence=silence)
    site = Site(ack_timeout=0.5, timings=timings)
    site.writes = True
    first, second = (
        waits(
            site.commands.change(
                ServerName(1, f"{number:08x}"), "group_discard", "room", site.channel
            )
        )
        for number in range(2)
    )
    assert first > 0.4
    assert (second > 0.4) == (not silence)


def test_nothing_is_asked_once_it_is_closed(site: Site) -> None:
    site.commands.close(LayerClosed("closed"))
    with pytest.raises(LayerClosed, match="closed"):
        run_blocking(site.commands.change(ASKER, "group_add", "room", site.channel))
    assert not site.commands.pending
    assert not site.commands.silent, "the other server is not to blame"


def test_a_flush_of_this_server_itself_is_skipped(site: Site) -> None:
    for server in (site.name, str(ASKER)):
        value = {"command": "flush", "server": server}
        site.commands.on_broadcast("", site.codec.encode(value), 12.5)
    assert site.flushed == [12.5]
