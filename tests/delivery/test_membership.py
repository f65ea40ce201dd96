"""Memberships: who is in what, who is told of it, and changes that interrupt each other."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kafka_layer.delivery import membership as module
from kafka_layer.delivery.mailbox import Mailbox
from kafka_layer.delivery.membership import Membership
from kafka_layer.delivery.wakeups import Wakeups
from tests.support.waiting import PATIENCE


def mailboxes(names: str) -> list[Mailbox]:
    wakeups = Wakeups()
    return [Mailbox(name, 1, wakeups) for name in names]


class Told:
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def first_in(self, name: str) -> None:
        self.events.append(("in", name))

    def last_out(self, name: str) -> None:
        self.events.append(("out", name))

    @property
    def names(self) -> set[str]:
        names = set()
        for event, name in self.events:
            assert (name in names) == (event == "out"), f"{event} {name} is no change"
            (names.add if event == "in" else names.discard)(name)
        return names


class TestMembers:
    def test_what_was_read_does_not_change(self) -> None:
        membership = Membership()
        first, second = mailboxes("ab")
        membership.add("x", first)
        before = membership.members("x")
        membership.add("x", second)
        membership.discard("x", first)
        assert before == (first,)
        assert membership.members("x") == (second,)

    def test_drop_takes_a_mailbox_out_of_everything(self) -> None:
        membership = Membership()
        mailbox, other = mailboxes("ab")
        for name in ("x", "y", "z"):
            membership.add(name, mailbox)
        membership.add("z", other)
        membership.drop(mailbox)
        assert len(membership) == 1
        assert membership.members("z") == (other,)


class TestListeners:
    def test_only_the_first_and_the_last_are_told(self) -> None:
        membership, told = Membership(), Told()
        first, second = mailboxes("ab")
        membership.listen(told)
        for _ in range(2):
            membership.add("x", first)
            membership.add("x", second)
        membership.discard("x", first)
        assert told.events == [("in", "x")]
        membership.discard("x", second)
        assert told.events == [("in", "x"), ("out", "x")]

    def test_a_mailbox_that_is_dropped_and_a_clear_are_told(self) -> None:
        membership, told = Membership(), Told()
        first, second = mailboxes("ab")
        membership.listen(told)
        for name in ("x", "y"):
            membership.add(name, first)
        membership.add("y", second)
        membership.drop(first)
        assert told.names == {"y"}
        membership.clear()
        assert told.names == set()

    def test_a_listener_that_comes_late_is_told_of_those_that_are_there(self) -> None:
        membership, told = Membership(), Told()
        membership.add("x", mailboxes("a")[0])
        membership.listen(told)
        assert told.names == {"x"}

    def test_a_listener_that_fails_stops_nothing(self) -> None:
        class Broken(Told):
            def first_in(self, name: str) -> None:
                raise KeyError("bug")

        membership, told = Membership(), Told()
        membership.listen(Broken())
        membership.listen(told)
        membership.add("x", mailboxes("a")[0])
        assert told.names == {"x"}
        assert len(membership.members("x")) == 1

    def test_threads_that_change_at_the_same_time_leave_the_listener_right(self) -> None:
        membership, told = Membership(), Told()
        membership.listen(told)

        def change(mailbox: Mailbox) -> None:
            for _ in range(300):
                membership.add("x", mailbox)
                membership.discard("x", mailbox)

        threads = [threading.Thread(target=change, args=(each,)) for each in mailboxes("abcd")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told.names == set()
        assert len(membership) == 0


class Memberships(RuleBasedStateMachine):
    """Members, names and events against a plain set of pairs."""

    @initialize()
    def open(self) -> None:
        self.membership, self.told = Membership(), Told()
        self.membership.listen(self.told)
        self.mailboxes = mailboxes("abc")
        self.pairs: dict[tuple[str, Mailbox], None] = {}

    @rule(name=st.sampled_from("xyz"), number=st.integers(0, 2))
    def add(self, name: str, number: int) -> None:
        self.membership.add(name, self.mailboxes[number])
        self.pairs.setdefault((name, self.mailboxes[number]))

    @rule(name=st.sampled_from("xyz"), number=st.integers(0, 2))
    def discard(self, name: str, number: int) -> None:
        self.membership.discard(name, self.mailboxes[number])
        self.pairs.pop((name, self.mailboxes[number]), None)

    @rule(number=st.integers(0, 2))
    def drop(self, number: int) -> None:
        self.membership.drop(self.mailboxes[number])
        for name in "xyz":
            self.pairs.pop((name, self.mailboxes[number]), None)

    @rule()
    def clear(self) -> None:
        self.membership.clear()
        self.pairs.clear()

    @invariant()
    def members_and_events_are_right(self) -> None:
        for name in "xyz":
            expected = tuple(mailbox for other, mailbox in self.pairs if other == name)
            assert self.membership.members(name) == expected
        assert self.told.names == {name for name, _ in self.pairs}
        assert len(self.membership) == len(self.told.names)


TestMemberships = Memberships.TestCase


def interrupted_at(step: int, function: Callable[[], object], handler: Callable[[], None]) -> bool:
    """Call a function, and ``handler`` in it, as a signal handler is, at its n-th line.

    Returns:
        Whether it has so many lines.
    """
    left = step

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line" and left > 0:
            left -= 1
            if not left:
                sys.settrace(None)
                handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return left <= 0


class TestInterruptions:
    """A signal handler or a finalizer may change memberships at any line of another change."""

    @pytest.mark.parametrize("change", ["add", "discard", "drop", "clear", "members"])
    def test_a_change_that_interrupts_another_one_is_carried_out(self, change: str) -> None:
        step = 1
        while self.interrupt(change, step):
            step += 1
        assert step > 3

    def interrupt(self, change: str, step: int) -> bool:
        membership, told = Membership(), Told()
        membership.listen(told)
        first, second = mailboxes("ab")
        membership.add("x", first)
        membership.add("y", first)
        arguments: tuple[Any, ...] = {
            "add": ("x", second),
            "discard": ("x", first),
            "drop": (first,),
            "clear": (),
            "members": ("x",),
        }[change]

        def handler() -> None:
            membership.add("z", second)
            membership.add("x", second)
            membership.discard("y", first)
            membership.members("x")

        done: list[bool] = []
        thread = threading.Thread(
            target=lambda: done.append(
                interrupted_at(step, lambda: getattr(membership, change)(*arguments), handler)
            ),
            daemon=True,
        )
        thread.start()
        thread.join(PATIENCE)
        assert done, f"{change} waits for itself at line {step}"
        if done[0]:
            assert first not in membership.members("y")
            if change != "clear":
                assert second in membership.members("x")
                assert second in membership.members("z")
        membership.drop(first)
        membership.drop(second)
        assert len(membership) == 0
        assert told.names == set()
        return done[0]
