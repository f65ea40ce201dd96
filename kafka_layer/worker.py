"""A worker that takes a job when it is free for it, and finishes the one in hand when it stops.

Channels' own worker takes jobs as fast as they come and keeps them in memory: those are lost when
it ends. This one is used by ``runworker`` where ``kafka_layer`` stands before ``channels`` in
``INSTALLED_APPS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from channels.worker import Worker

__all__ = ["OneAtATimeWorker"]

logger = logging.getLogger("kafka_layer")

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]


class OneAtATimeWorker(Worker):  # type: ignore[misc]
    """Channels' worker with one message a channel in hand, and a stop that loses none.

    SIGTERM or SIGINT: it takes no more messages, finishes those in hand and ends. A second one
    ends it at once. An application that fails costs the message that it was working on.

    Args:
        application: The ASGI application.
        channels: The worker channels to listen on.
        channel_layer: Where they are.
        max_applications: As in Channels.
    """

    def __init__(
        self,
        application: Any,
        channels: Sequence[str],
        channel_layer: Any,
        max_applications: int = 1000,
    ) -> None:
        super().__init__(
            self._tracked(application), list(channels), channel_layer, max_applications
        )
        self._in_hand = {channel: _InHand() for channel in channels}

    async def handle(self) -> None:
        """Listen on all channels until a signal says to stop, or one of them fails."""
        listeners = [asyncio.ensure_future(self.listener(channel)) for channel in self._in_hand]
        self._stop_on_signals(listeners)
        # A channel that failed alone would be a worker that seems to work.
        await asyncio.wait(listeners, return_when=asyncio.FIRST_COMPLETED)
        for listener in listeners:
            listener.cancel()
        results = await asyncio.gather(*listeners, return_exceptions=True)
        for each in self._in_hand.values():
            await each.done.wait()
        await self._clear_away_ended()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def listener(self, channel: str) -> None:
        """Take the messages of one channel, each when the one before is done."""
        in_hand = self._in_hand[channel]
        scope = {"type": "channel", "channel": channel}
        while True:
            await in_hand.done.wait()
            message = await self.channel_layer.receive(channel)
            if not message.get("type", None):
                # Any program may have written it, so it must not end the worker.
                logger.error("A message on %s has no type and is dropped: %r", channel, message)
                continue
            await self._clear_away_ended()
            in_hand.done.clear()
            self.get_or_create_application_instance(channel, scope).put_nowait(message)

    async def _clear_away_ended(self) -> None:
        """Report and forget the applications that ended.

        Channels does so ten times a second; until then their queues would swallow messages.
        """
        for channel, details in list(self.application_instances.items()):
            future = details["future"]
            if future.done():
                del self.application_instances[channel]
                if not future.cancelled() and future.exception() is not None:
                    await self.application_exception(future.exception(), details)

    def _stop_on_signals(self, listeners: Sequence[asyncio.Future[None]]) -> None:
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            logger.info("Worker stops: finishing the messages in hand")
            loop.remove_signal_handler(number)
            for listener in listeners:
                listener.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            # Only the main thread may, and Windows' loops cannot.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, stop, number)

    def _tracked(self, application: Any) -> Any:
        async def run(scope: _Message, receive: _Receive, send: Any) -> None:
            in_hand = self._in_hand[scope["channel"]]

            async def tracked() -> _Message:
                # A consumer asks for a message when it is done with the one before.
                if in_hand.taken:
                    in_hand.done.set()
                message = await receive()
                in_hand.taken = True
                return message

            try:
                await application(scope, tracked, send)
            finally:
                in_hand.taken = False
                in_hand.done.set()

        return run


class _InHand:
    """The message of one channel that the application works on."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.done.set()
        self.taken = False
