"""Counting: from any thread, and while something else of the same thread counts."""

from __future__ import annotations

import ast
import re
import threading
from pathlib import Path
from typing import Any, get_args

import kafka_layer
from kafka_layer.exceptions import Cause
from kafka_layer.observe.counters import AtomicCounter, Stats
from kafka_layer.observe.events import Observer
from tests.support.sources import parsed
from tests.support.waiting import PATIENCE

PACKAGE = Path(kafka_layer.__file__).parent


def test_counters() -> None:
    stats = Stats()
    assert stats.snapshot() == {}
    stats.count("delivered")
    stats.count("delivered", 4)
    stats.dropped("full", "detail", 3)
    stats.sent("group").add()
    snapshot = stats.snapshot()
    assert snapshot == {"delivered": 5, "dropped.full": 3, "sent": 1}
    stats.count("delivered.group")
    stats.sent("all").add()
    assert snapshot["delivered"] == 5
    assert stats.snapshot() == {"delivered": 6, "dropped.full": 3, "sent": 2}
    assert stats.sent_by_kind() == {"group": 1, "all": 1}
    assert stats.by_name("delivered") == {"group": 1}


def test_threads_lose_no_count() -> None:
    stats = Stats()

    def count() -> None:
        for _ in range(5000):
            stats.count("delivered")
            stats.sent("group").add()

    threads: list[Any] = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    looks = [stats.snapshot() for _ in range(10)]
    for thread in threads:
        thread.join()
    assert stats.snapshot() == {"delivered": 20_000, "sent": 20_000}
    assert [each.get("sent", 0) for each in looks] == sorted(each.get("sent", 0) for each in looks)


def test_counters_by_kind_and_replaced_clients() -> None:
    stats = Stats()
    stats.count("refused.full")
    stats.count("errors._TRANSPORT", 2)
    stats.count("producer.replaced")
    stats.count("consumer.replaced", 3)
    stats.dropped("expired", "late")
    assert stats.by_name("refused") == {"full": 1}
    assert stats.by_name("errors") == {"_TRANSPORT": 2}
    assert stats.by_name("dropped") == {"expired": 1}
    assert stats.replaced() == {"producer": 1, "consumer": 3}


def test_what_is_known_not_to_be_missing_is_no_drop() -> None:
    stats = Stats()
    stats.dropped("retention", "the log was created again", 0)
    assert stats.snapshot() == {}


class Interrupting(str):
    """A counter's name that calls the stats while it is counted, as a signal handler may."""

    stats: Stats

    @classmethod
    def named(cls, name: str, stats: Stats) -> Interrupting:
        self = cls(name)
        self.stats = stats
        return self

    def __hash__(self) -> int:
        self.stats.snapshot()
        self.stats.count("from the handler")
        self.stats.dropped("full", "from the handler")
        return super().__hash__()

    __eq__ = str.__eq__


def test_a_call_that_interrupts_a_count_or_a_drop_does_not_deadlock() -> None:
    stats = Stats()
    done = threading.Event()

    def interrupted() -> None:
        stats.count(Interrupting.named("delivered", stats))
        stats.dropped(Interrupting.named("expired", stats), "detail")
        stats.tick()
        done.set()

    threading.Thread(target=interrupted, daemon=True).start()
    assert done.wait(PATIENCE), "the call that interrupts waits for the lock of the interrupted one"
    assert stats.snapshot()["delivered"] == 1
    assert stats.snapshot()["dropped.full"] > 1


def test_a_call_that_interrupts_the_reading_of_an_atomic_counter_does_not_deadlock() -> None:
    counter = AtomicCounter()
    counter.add()
    done = threading.Event()

    def interrupted() -> None:
        with counter._lock:
            counter.value()
        done.set()

    threading.Thread(target=interrupted, daemon=True).start()
    assert done.wait(PATIENCE), "value() waits for itself"


class Recorder(Observer):
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_count(self, name: str, number: int) -> None:
        self.events.append(("count", name, number))

    def on_dropped(self, cause: str, number: int, detail: str) -> None:
        self.events.append(("dropped", cause, number, detail))

    def tick(self) -> None:
        self.events.append(("tick",))

    def close(self, timeout: float) -> None:
        self.events.append(("close",))


def test_a_further_observer_is_told_of_everything() -> None:
    recorder = Recorder()
    stats = Stats("channels", observers=[recorder])
    stats.count("delivered", 2)
    stats.dropped("full", "channel x")
    stats.tick()
    stats.close(1.0)
    assert recorder.events == [
        ("count", "delivered", 2),
        ("dropped", "full", 1, "channel x"),
        ("tick",),
        ("close",),
    ]
    assert stats.snapshot() == {"delivered": 2, "dropped.full": 1}


def test_every_cause_that_the_package_names_is_a_cause() -> None:
    """A cause is public: it is a key of ``LayerStats.dropped`` and has a row in the docs."""
    named = set()
    telling = re.compile(r'(dropped|UnreadableRecord)\(\s*["\']|["\'](dropped|refused)\.')
    for path in PACKAGE.rglob("*.py"):
        if not telling.search(path.read_text()):
            continue
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            first = node.args[0]
            if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
                continue
            if called in ("dropped", "UnreadableRecord"):
                named.add(first.value)
            elif called == "count" and first.value.startswith(("dropped.", "refused.")):
                named.add(first.value.partition(".")[2])
    assert named
    assert named <= set(get_args(Cause))
