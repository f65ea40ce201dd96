"""How often clients try to reach brokers that are away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, Producer

from kafka_layer.config.settings import LayerConfig
from kafka_layer.kafka.properties import consumer_properties, producer_properties

# One client: a server has three or more, each with a connection per broker.
MOST_A_SECOND = 26
LEAST_A_SECOND = 2
WATCHED = 1.0


class Away:
    """A port at which every connection ends at once; notes when each was made."""

    def __init__(self) -> None:
        self.made: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.made.append(time.monotonic())
            connection.close()


@pytest.fixture
def make_away() -> Iterator[Callable[[], Away]]:
    made: list[Away] = []

    def make() -> Away:
        made.append(Away())
        return made[-1]

    yield make
    for away in made:
        away.close()


def test_clients_do_not_storm_brokers_that_are_away(make_away: Callable[[], Away]) -> None:
    watched: list[tuple[Away, Producer | Consumer]] = []
    for kind, properties in ((Producer, producer_properties), (Consumer, consumer_properties)):
        away = make_away()
        config = LayerConfig.from_keywords(bootstrap_servers=away.address)
        own = {**properties(config), "log_level": 0, "error_cb": lambda error: None}
        watched.append((away, kind(own)))
    # A machine that stands still makes them slower, and never faster.
    for _ in range(10):
        before = [len(away.made) for away, _ in watched]
        began = time.monotonic()
        while time.monotonic() < began + WATCHED:
            for _, client in watched:
                client.poll(0.05)
        made = [len(away.made) for away, _ in watched]
        took = time.monotonic() - began
        rates = [(now - then) / took for now, then in zip(made, before, strict=True)]
        assert max(rates) <= MOST_A_SECOND, watched
        if min(rates) >= LEAST_A_SECOND:
            return
    pytest.fail(f"an outage would last longer than it must: {rates} attempts a second")
