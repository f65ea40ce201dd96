"""The last record of a group: who joins gets it first, then what comes, in any course of events."""

from __future__ import annotations

import itertools
import threading
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kafka_layer.delivery.mailbox import Mailbox
from kafka_layer.delivery.membership import Membership
from kafka_layer.delivery.wakeups import Wakeups
from kafka_layer.streams.latest import LatestRecords
from kafka_layer.wire.topics import StreamTopic
from tests.support.waiting import PATIENCE

TOPIC = StreamTopic("prices", "prices.v1")


def record(offset: int, *, partition: int = 0) -> Any:
    return TOPIC, b"k", b"1", (), 0.0, partition, offset


class Site:
    """Last records, the members of groups, and what each mailbox got."""

    def __init__(self) -> None:
        self.groups = Membership()
        self.got: dict[Mailbox, list[int]] = {}
        self.full: set[Mailbox] = set()
        self.latest: LatestRecords[Any] = LatestRecords(self.groups, self.answer)

    def answer(self, mailbox: Mailbox, record: Any, group: str) -> None:
        self.got[mailbox].append(record[6])

    def mailbox(self) -> Mailbox:
        mailbox = Mailbox("specific.0-a!b", 1, Wakeups())
        self.got[mailbox] = []
        return mailbox

    def join(self, name: str, mailbox: Mailbox) -> None:
        with self.latest.lock:
            is_new = name not in self.groups.names(mailbox)
            self.groups.add(name, mailbox)
            if is_new:
                self.latest.joined(name, mailbox)

    def write(self, name: str, record: Any, *, ends: bool = False) -> list[Mailbox]:
        """Note a record, or one without a value; return the mailboxes that have no room for it."""

        def put(mailbox: Mailbox) -> bool:
            if mailbox in self.full:
                return False
            self.got[mailbox].append(record[6])
            return True

        return self.latest.note([name], None if ends else record, put)


def loaded() -> Site:
    site = Site()
    site.latest.loaded()
    return site


def test_who_joins_gets_the_last_record_and_then_each_further_one() -> None:
    site = loaded()
    for offset in range(3):
        site.write("a", record(offset))
    joiner = site.mailbox()
    site.join("a", joiner)
    site.write("a", record(3))
    assert site.got[joiner] == [2, 3]


def test_who_is_in_the_group_already_gets_nothing_again() -> None:
    site = loaded()
    site.write("a", record(0))
    joiner = site.mailbox()
    site.join("a", joiner)
    site.join("a", joiner)
    assert site.got[joiner] == [0]


def test_a_record_without_a_value_ends_what_is_known() -> None:
    site = loaded()
    site.write("a", record(0))
    site.write("a", record(1), ends=True)
    joiner = site.mailbox()
    site.join("a", joiner)
    assert site.got[joiner] == []
    assert len(site.latest) == 0


def test_members_get_one_record_when_it_is_loaded_and_nothing_before() -> None:
    site = Site()
    early = site.mailbox()
    site.join("a", early)
    for offset in range(5):
        site.write("a", record(offset))
    late = site.mailbox()
    site.join("a", late)
    assert site.got[early] == site.got[late] == []
    site.latest.loaded()
    site.latest.loaded()
    assert site.got[early] == site.got[late] == [4]


def test_many_are_noted_at_once_while_it_is_loading() -> None:
    site = Site()
    early = site.mailbox()
    for name in "abc":
        site.join(name, early)
    site.latest.fill("abab", [record(0), record(1), record(2), None])
    site.latest.fill("c", [None])
    site.latest.fill("b", [record(5)])
    site.latest.loaded()
    assert sorted(site.got[early]) == [2, 5]
    assert len(site.latest) == 2


def test_a_topic_that_was_created_again_has_no_last_records_yet() -> None:
    site = loaded()
    site.write("a", record(7))
    site.write("b", record(3, partition=1))
    site.latest.forget(lambda record: record[5] == 0)
    joiner = site.mailbox()
    site.join("a", joiner)
    site.join("b", joiner)
    assert site.got[joiner] == [3]


def test_who_leaves_while_it_is_full_and_joins_again_gets_the_record_once() -> None:
    site = loaded()
    full = site.mailbox()
    site.join("a", full)
    site.full = {full}
    assert site.write("a", record(0)) == [full]
    site.groups.discard("a", full)
    site.join("a", full)
    assert site.got[full] == [], "it comes when there is room"
    site.latest.delivered()
    site.groups.discard("a", full)
    site.join("a", full)
    assert site.got[full] == [0], "as to any who joins"


def test_nobody_joins_while_a_record_is_noted_and_put() -> None:
    site = loaded()
    site.join("a", site.mailbox())
    taken: list[bool] = []

    def put(mailbox: Mailbox) -> bool:
        thread = threading.Thread(
            target=lambda: taken.append(site.latest.lock.acquire(blocking=False))
        )
        thread.start()
        thread.join(PATIENCE)
        return True

    site.latest.note(["a"], record(0), put)
    assert taken == [False]


class AnyCourse(RuleBasedStateMachine):
    """Channels join and leave two groups, also between the two halves of a delivery.

    Whatever happens: from its join on a channel gets the group's last record, if there is one, and
    then each further one, once and in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.site = loaded()
        self.mailboxes = [self.site.mailbox() for _ in range(2)]
        self.offsets = itertools.count()
        self.group_of: dict[int, str] = {}
        self.last: dict[str, int] = {}
        self.expected: dict[Mailbox, list[int]] = {each: [] for each in self.mailboxes}
        self.names: dict[Mailbox, set[str]] = {each: set() for each in self.mailboxes}
        # The second half of a delivery: the mailboxes that were full.
        self.rest: list[Mailbox] = []
        self.under_way: tuple[str, int] | None = None
        # While it is loading: the groups with new records, and who joined.
        self.changed: set[str] = set()
        self.joined: set[tuple[str, Mailbox]] = set()

    @precondition(lambda self: self.under_way is None and not self.site.latest.loading)
    @rule()
    def load(self) -> None:
        self.site.latest.load()

    @precondition(lambda self: self.under_way is None)
    @rule()
    def be_loaded(self) -> None:
        self.site.latest.loaded()
        for mailbox, names in self.names.items():
            for name in names & self.last.keys():
                if name in self.changed or (name, mailbox) in self.joined:
                    self.expected[mailbox].append(self.last[name])
        self.changed.clear()
        self.joined.clear()

    @rule(at=st.integers(0, 1), name=st.sampled_from("ab"))
    def join(self, at: int, name: str) -> None:
        mailbox = self.mailboxes[at]
        is_new = name not in self.names[mailbox]
        self.site.join(name, mailbox)
        self.names[mailbox].add(name)
        if self.site.latest.loading and is_new:
            self.joined.add((name, mailbox))
        elif is_new and name in self.last:
            due = self.under_way == (name, self.last[name]) and mailbox in self.rest
            if not due:
                self.expected[mailbox].append(self.last[name])

    @rule(at=st.integers(0, 1), name=st.sampled_from("ab"))
    def leave(self, at: int, name: str) -> None:
        self.site.groups.discard(name, self.mailboxes[at])
        self.names[self.mailboxes[at]].discard(name)
        self.joined.discard((name, self.mailboxes[at]))

    @precondition(lambda self: self.under_way is None)
    @rule(
        name=st.sampled_from("ab"),
        full=st.sampled_from([(), (0,), (1,), (0, 1)]),
        ends=st.booleans(),
    )
    def write(self, name: str, full: tuple[int, ...], ends: bool) -> None:
        offset = next(self.offsets)
        self.site.full = {self.mailboxes[at] for at in full}
        self.rest = self.site.write(name, record(offset), ends=ends)
        self.under_way = name, offset
        self.group_of[offset] = name
        self.last.pop(name, None)
        if not ends:
            self.last[name] = offset
        if self.site.latest.loading:
            self.changed.add(name)
            return
        for mailbox, names in self.names.items():
            if name in names:
                self.expected[mailbox].append(offset)

    @precondition(lambda self: self.under_way is not None)
    @rule()
    def deliver_the_rest(self) -> None:
        assert self.under_way is not None
        for mailbox in self.rest:
            self.site.got[mailbox].append(self.under_way[1])
        self.site.latest.delivered()
        self.under_way, self.rest = None, []

    @invariant()
    def each_got_what_it_had_to_get(self) -> None:
        for mailbox in self.mailboxes:
            if mailbox not in self.rest:
                assert sorted(self.site.got[mailbox]) == sorted(self.expected[mailbox])

    @invariant()
    def each_group_came_in_order(self) -> None:
        for got in self.site.got.values():
            for name in "ab":
                of_group = [offset for offset in got if self.group_of[offset] == name]
                assert of_group == sorted(of_group)


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=4 * settings().max_examples)
