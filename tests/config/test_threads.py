"""Threads and what they wait with: the standard library's own, unless something replaced them."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured

import kafka_layer
from kafka_layer.config import threads
from tests.support.sources import parsed, statements
from tests.support.waiting import PATIENCE

PACKAGE = Path(kafka_layer.__file__).parent
# What gevent replaces, by the module that has it.
REPLACED = {
    "threading": {"Condition", "Event", "Lock", "RLock", "Semaphore", "Thread", "Timer", "local"},
    "queue": {"LifoQueue", "PriorityQueue", "Queue", "SimpleQueue"},
    "concurrent.futures": {"Future", "ThreadPoolExecutor", "as_completed", "wait"},
    "time": {"sleep"},
}


def may_call(text: str) -> bool:
    """Tell whether a module's text has what a call of ``REPLACED`` needs; most have not."""
    return any(
        module in text and any(name in text for name in names) for module, names in REPLACED.items()
    )


def calls(path: Path) -> Iterator[str]:
    """Yield what a module calls of ``REPLACED``, by whatever name it imported it."""
    tree = parsed(path)
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in statements(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
    }
    known = {f"{module}.{name}" for module, names in REPLACED.items() for name in names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            name = imported.get(name, name)
            if name in known:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno} {name}"


def dotted(node: ast.expr) -> str:
    """Return a name, also that of an attribute of a name; "" of what is neither."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}"
    return ""


def test_the_package_takes_threads_and_locks_from_one_module() -> None:
    """One thread of the standard library would freeze every process under gevent."""
    used = [
        call
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE) != Path("config/threads.py") and may_call(path.read_text())
        for call in calls(path)
    ]
    assert not used


def test_without_gevent_they_are_those_of_the_standard_library() -> None:
    assert type(threads.new_event()) is threading.Event
    assert type(threads.new_condition()) is threading.Condition
    assert type(threads.new_thread(print, "kafka-layer-test")) is threading.Thread
    assert type(threads.new_future()) is Future
    assert threads.call_natively(threading.get_ident) == threading.get_ident()


class TestNudge:
    def test_a_wait_takes_it_however_often_it_was_set(self) -> None:
        nudge = threads.Nudge()
        nudge.set()
        nudge.set()
        assert nudge.wait(0)
        assert not nudge.wait(0)

    def test_it_wakes_a_thread_that_waits(self) -> None:
        nudge, woken = threads.Nudge(), threading.Event()
        waiting = threading.Thread(target=lambda: nudge.wait(PATIENCE) and woken.set(), daemon=True)
        waiting.start()
        nudge.set()
        assert woken.wait(PATIENCE)

    def test_what_is_cleared_wakes_nothing(self) -> None:
        nudge = threads.Nudge()
        nudge.clear()
        nudge.set()
        nudge.clear()
        assert not nudge.wait(0)


def test_eventlet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    threads.require_native_threads()
    patcher = SimpleNamespace(is_monkey_patched=lambda module: module == "thread")
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    with pytest.raises(ImproperlyConfigured, match="does not run under eventlet"):
        threads.require_native_threads()
