"""The end of the process: who is told of it, and what SIGTERM does then."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from kafka_layer.server import process


def handle_exit(number: int, frame: object) -> None:
    """What uvicorn sets for SIGTERM."""


handle_exit.__module__ = "uvicorn.server"


@pytest.fixture(autouse=True)
def untold() -> Iterator[None]:
    """A process of which nothing is known, and whose handler is put back at the end."""
    before = signal.getsignal(signal.SIGTERM)
    process._told.discard(os.getpid())
    yield
    process._told.discard(os.getpid())
    signal.signal(signal.SIGTERM, before)


class Abandoned:
    """A server of the parent, in a child.

    Attributes:
        done: How many of them were abandoned.
    """

    done = 0

    def close(self, timeout: float) -> None:
        raise AssertionError("a child closes nothing of its parent")

    def abandon(self) -> None:
        Abandoned.done += 1
        raise RuntimeError("as half made as it was at the fork")


def test_one_that_cannot_be_abandoned_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    servers = [Abandoned(), Abandoned()]
    for each in servers:
        process.add(each)
    try:
        process.abandon_all()
    finally:
        for each in servers:
            process.discard(each)
    assert Abandoned.done == 2
    assert "could not be abandoned" in caplog.text


def test_under_uvicorn_alone_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    process.warn_if_nobody_tells()
    assert not caplog.records
    signal.signal(signal.SIGTERM, handle_exit)
    for _ in range(3):
        process.warn_if_nobody_tells()
    assert len(caplog.records) == 1
    assert "kafka_layer.asgi.closing(application)" in caplog.text


def test_nothing_is_said_where_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    signal.signal(signal.SIGTERM, handle_exit)
    process.end_will_be_told()
    process.warn_if_nobody_tells()
    assert not caplog.records


def test_a_handler_of_the_program_stays() -> None:
    for own in (handle_exit, signal.SIG_IGN):
        signal.signal(signal.SIGTERM, own)
        process.close_at_sigterm(5.0)
        assert signal.getsignal(signal.SIGTERM) is own


def test_the_default_one_is_replaced_in_the_main_thread_alone() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    thread = threading.Thread(target=process.close_at_sigterm, args=(5.0,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    process.close_at_sigterm(5.0)
    assert callable(signal.getsignal(signal.SIGTERM))
