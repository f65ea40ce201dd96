"""Commands and their answers do not wait behind messages that a blocked loop does not take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import Layers
from tests.support.waiting import PATIENCE, wait_until

CAPACITY = 10
# What waits behind the data waits for as long as the loop stands still.
TIMINGS = Timings(blocked_loop=20 * PATIENCE)


class BlockedServer:
    """A server whose event loop stands still, with a full mailbox that holds up its data.

    Args:
        layer: Its layer, with ``CAPACITY``.
        channels: How many channels are open on the loop, the full one among them.
    """

    def __init__(self, layer: KafkaChannelLayer, channels: int) -> None:
        self.layer = layer
        self.channels: list[str] = []
        self._open = channels
        self._blocked, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._block()))
        self._thread.start()
        assert self._blocked.wait(PATIENCE), "the loop to stand still"

    async def _block(self) -> None:
        self.channels = [await self.layer.new_channel() for _ in range(self._open)]
        await self.layer.group_add("room", self.channels[0])
        receives = [asyncio.create_task(self.layer.receive(each)) for each in self.channels]
        await asyncio.sleep(0.05)  # the receives wait
        self._blocked.set()
        self._go_on.wait(3 * PATIENCE)
        for each in receives:
            each.cancel()

    def fill(self, sender: KafkaChannelLayer) -> None:
        """Have others send until the first channel is full and more waits behind it."""
        for number in range(3 * CAPACITY):
            sender.group_send_sync("room", {"n": number})
        mailbox = server_of(self.layer).registry.mailbox(self.channels[0])
        assert mailbox is not None
        wait_until(lambda: len(mailbox) >= CAPACITY, "the mailbox to be full")

    def release(self) -> None:
        self._go_on.set()
        self._thread.join(PATIENCE)


@pytest.fixture(params=[1, 21], ids=["one channel", "21 channels"])
def blocked(request: pytest.FixtureRequest, make_layer: Layers) -> Iterator[BlockedServer]:
    layer = make_layer(capacity=CAPACITY, ack_timeout=PATIENCE, timings=TIMINGS)
    server = BlockedServer(layer, request.param)
    yield server
    server.release()


def test_a_server_with_a_blocked_loop_carries_out_commands_of_others(
    make_layer: Layers, blocked: BlockedServer
) -> None:
    other = make_layer(ack_timeout=PATIENCE)
    blocked.fill(other)
    other.group_add_sync("another-room", blocked.channels[-1])


def test_a_server_with_a_blocked_loop_gets_answers_to_its_own_commands(
    make_layer: Layers, blocked: BlockedServer
) -> None:
    other = make_layer()
    channel = asyncio.run(other.new_channel())
    blocked.fill(other)
    blocked.layer.group_add_sync("another-room", channel)
