"""The clients' log lines: few of each kind, from any thread and in forked children."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from kafka_layer.kafka.log import ClientLog, client_logger


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("kafka_layer.librdkafka", logging.WARNING, "", 0, text, None, None)


def test_one_line_of_each_kind_passes_in_its_time() -> None:
    lines = ClientLog(interval=3600)
    assert lines.filter(line("FAIL [thrd:a]: connect failed"))
    assert not lines.filter(line("FAIL [thrd:b]: connect failed"))
    assert lines.filter(line("ERROR [thrd:a]: not yet"))


def test_the_next_line_tells_how_many_of_its_kind_were_held_back() -> None:
    lines = ClientLog(interval=0.05)
    passed = line("FAIL first")
    assert lines.filter(passed)
    held = 0
    while not lines.filter(passed := line("FAIL again")):
        held += 1
    assert held
    assert passed.getMessage() == f"FAIL again ({held} more like it)"
    assert lines.filter(line("REBALANCE another kind"))


@pytest.mark.parametrize("kind", ["GETPID", "METADATAUPDATE"])
class TestLinesAboutWhatMendsItself:
    def test_it_is_no_warning_at_a_start(self, kind: str, caplog: pytest.LogCaptureFixture) -> None:
        record = line(f"{kind} [rdkafka#producer-1] [thrd:main]: … retrying")
        caplog.set_level(logging.INFO, client_logger.name)
        assert not ClientLog().filter(record)
        caplog.set_level(logging.DEBUG, client_logger.name)
        assert ClientLog().filter(record)
        assert record.levelname == "DEBUG"

    def test_it_is_a_warning_when_it_goes_on(self, kind: str) -> None:
        lines = ClientLog(patience=0.05)
        while not lines.filter(record := line(f"{kind} [thrd:main]: … retrying")):
            pass
        assert record.levelname == "WARNING"


class TestForks:
    @pytest.fixture
    def busy(self) -> Iterator[None]:
        """Another thread is inside the filter, as in an outage."""
        entered, leave = threading.Event(), threading.Event()

        class Slow(logging.LogRecord):
            asked = 0

            def getMessage(self) -> str:  # noqa: N802
                return Kind(super().getMessage())

        class Kind(str):
            def partition(self, sep: str) -> tuple[str, str, str]:
                return Hashed("FAIL"), " ", "…"

        class Hashed(str):
            def __hash__(self) -> int:
                entered.set()
                leave.wait(60)
                return super().__hash__()

        def log() -> None:
            record = Slow("kafka_layer.librdkafka", logging.WARNING, "", 0, "FAIL x", None, None)
            for each in client_logger.filters:
                assert isinstance(each, ClientLog)
                each.filter(record)

        thread = threading.Thread(target=log, daemon=True)
        thread.start()
        assert entered.wait(30)
        yield
        leave.set()
        thread.join(30)

    @pytest.mark.usefixtures("busy")
    def test_a_child_that_is_forked_while_a_thread_is_in_the_filter_can_log(self) -> None:
        child = os.fork()
        if child == 0:
            try:
                # Ends the child where it hangs.
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(30)
                client_logger.warning("FAIL [rdkafka#producer-1] first line of the child")
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert not os.WIFSIGNALED(status), "the child hangs at its first line"
