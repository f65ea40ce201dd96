"""The layer in memory: its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from kafka_layer.testing.memory import InMemoryKafkaChannelLayer
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic
from tests.support.inspect import server_of
from tests.support.waiting import wait_until

TIMEOUT = 2.0


def test_a_close_takes_no_longer_than_it_may_whatever_its_threads_wait_for() -> None:
    go_on, begun = threading.Event(), [threading.Event(), threading.Event()]

    class Blocked:
        def __init__(self, event: threading.Event) -> None:
            self.begun = event

        def deliver(self, records: Sequence[Record]) -> None:
            self.begun.set()
            go_on.wait(60)

    layer = InMemoryKafkaChannelLayer(prefix="blocked")
    transport = server_of(layer).transport
    inbox = transport.open_receiver(Blocked(begun[0]), Blocked(begun[1]), TIMEOUT)
    transport.produce((Topic.SEND_CONN, "name", b"", inbox, ()))
    transport.produce((Topic.ACK, "name", b"", inbox, ()))
    wait_until(lambda: all(each.is_set() for each in begun), "both threads to be blocked")
    began = time.monotonic()
    transport.close(TIMEOUT)
    # Not so long for each of them.
    assert time.monotonic() - began < 2 * TIMEOUT
    go_on.set()
