"""A consumer that can fall silent, as librdkafka's may after an outage."""

from __future__ import annotations

import sys
from typing import Any

from confluent_kafka import Consumer

from tests.support.waiting import wait_until_async

__all__ = ["MutedConsumer"]


class MutedConsumer(Consumer):
    """Reads some of its partitions no more once it is told so; it says nothing about that."""

    _to_mute = 0

    async def mute(self, partitions: int = sys.maxsize) -> None:
        """Fall silent, in the thread that polls; returns once that is done.

        Another thread that called the client would wait for its turn, and may never get it.

        Args:
            partitions: How many of the assigned partitions fall silent, at most.
        """
        self._to_mute = partitions
        await wait_until_async(lambda: not self._to_mute, "the client to be polled")

    def poll(self, *arguments: Any) -> Any:
        if self._to_mute:
            self.pause(self.assignment()[: self._to_mute])
            self._to_mute = 0
        return super().poll(*arguments)
