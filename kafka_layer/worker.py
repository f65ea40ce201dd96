"""A worker that takes one job at a time, and finishes the one in hand when it stops.

Channels' own worker takes jobs as fast as they come, and loses those in its memory when it ends.
``runworker`` uses this one if ``kafka_layer`` stands before ``channels`` in ``INSTALLED_APPS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from channels.layers import channel_layers
from channels.worker import Worker

from .management.probe import Address, Health, HealthProbe

__all__ = ["OneAtATimeWorker"]

logger = logging.getLogger("kafka_layer")

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]


class OneAtATimeWorker(Worker):  # type: ignore[misc, unused-ignore]
    """Channels' worker with one message a channel in hand, and a stop that loses none.

    At SIGTERM or SIGINT it takes no more messages, finishes those in hand and ends; a second signal
    ends it at once. It reports to the layer whether the handler of a job returned or raised.

    Args:
        application: The ASGI application.
        channels: The worker channels to listen on.
        channel_layer: Their layer.
        max_applications: As in Channels.
        health: Where it answers health probes; None: nowhere.
    """

    def __init__(
        self,
        application: Any,
        channels: Sequence[str],
        channel_layer: Any,
        max_applications: int = 1000,
        health: Address | None = None,
    ) -> None:
        super().__init__(
            self._tracked(application), list(channels), channel_layer, max_applications
        )
        self._hands = {channel: _Hand() for channel in channels}
        self._probe = None if health is None else HealthProbe(health, self._health)

    async def handle(self) -> None:
        """Listen on all channels until a signal stops the worker, or one of them fails.

        Raises:
            OSError: If the address of health probes cannot be used.
        """
        self._leave_audiences()
        if self._probe is not None:
            await self._probe.start()
        try:
            await self._listen()
        finally:
            if self._probe is not None:
                self._probe.stop()

    async def _listen(self) -> None:
        listeners = [asyncio.ensure_future(self.listener(channel)) for channel in self._hands]
        self._stop_on_signals(listeners)
        # One failed channel ends all: otherwise the worker would seem to work.
        await asyncio.wait(listeners, return_when=asyncio.FIRST_COMPLETED)
        for listener in listeners:
            listener.cancel()
        results = await asyncio.gather(*listeners, return_exceptions=True)
        for hand in self._hands.values():
            await hand.empty.wait()
        await self._clear_away_ended()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def listener(self, channel: str) -> None:
        """Take the messages of one channel, one at a time."""
        hand = self._hands[channel]
        scope = {"type": "channel", "channel": channel}
        while True:
            await hand.empty.wait()
            message, job = await self._receive(channel)
            if not message.get("type", None):
                # Any program may write such a message, so it must not end the worker.
                logger.error("A message on %s has no type and is dropped: %r", channel, message)
                job.failed(ValueError("The message has no type."))
                continue
            await self._clear_away_ended()
            hand.take(job)
            self.get_or_create_application_instance(channel, scope).put_nowait(message)  # type: ignore[no-untyped-call, unused-ignore]

    def _health(self) -> Health:
        """Return whether jobs can come, and how many are in hand."""
        in_hand = sum(not hand.empty.is_set() for hand in self._hands.values())
        details: dict[str, Any] = {"in_hand": in_hand, "channels": len(self._hands)}
        stats = getattr(self.channel_layer, "stats", None)
        if stats is None:  # another package's layer
            return Health(True, details)
        state = stats().state
        return Health(state == "connected", {"state": state, **details})

    def _leave_audiences(self) -> None:
        """Keep messages to everybody from the consumers, on every layer."""
        layers = [channel_layers[alias] for alias in channel_layers.configs]
        for layer in (self.channel_layer, *layers):
            leave = getattr(layer, "leave_audience", None)
            if leave is not None:
                leave()

    async def _receive(self, channel: str) -> tuple[_Message, _Job]:
        receive_job = getattr(self.channel_layer, "receive_job", None)
        if receive_job is None:  # another package's layer
            return await self.channel_layer.receive(channel), _UntrackedJob()
        received: tuple[_Message, _Job] = await receive_job(channel)
        return received

    async def _clear_away_ended(self) -> None:
        """Report and drop the applications that ended.

        Channels does so ten times a second; until then their queues would swallow messages.
        """
        for channel, details in list(self.application_instances.items()):
            future = details["future"]
            if future.done():
                del self.application_instances[channel]
                if not future.cancelled() and future.exception() is not None:
                    await self.application_exception(future.exception(), details)  # type: ignore[no-untyped-call, unused-ignore]

    def _stop_on_signals(self, listeners: Sequence[asyncio.Future[None]]) -> None:
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            # Before the log line, because its reader may send the second signal at once, and the
            # loop would drop that signal.
            loop.remove_signal_handler(number)
            logger.info("Worker stops: finishing the messages in hand")
            for listener in listeners:
                listener.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            # Only the main thread may add handlers, and Windows' loops have none.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, stop, number)

    def _tracked(self, application: Any) -> Any:
        async def run(scope: _Message, receive: _Receive, send: Any) -> None:
            hand = self._hands[scope["channel"]]

            async def tracked() -> _Message:
                # A consumer asks for the next message when its handler has returned.
                if hand.begun:
                    hand.done()
                message = await receive()
                hand.begun = True
                return message

            try:
                await application(scope, tracked, send)
            except BaseException as error:
                hand.failed(error)
                raise
            if hand.begun:
                hand.done()
            else:
                hand.failed(RuntimeError("The application ended before it received the message."))

        return run


class _Job(Protocol):
    """A job, as ``KafkaChannelLayer.receive_job`` returns it."""

    def done(self) -> None: ...

    def failed(self, error: BaseException) -> None: ...


class _UntrackedJob:
    """A message of a layer that takes no reports."""

    def done(self) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        pass


class _Hand:
    """The job that a worker has in hand for one channel; or none.

    Attributes:
        empty: Set while it holds no job.
        begun: Whether the application has received the job.
    """

    def __init__(self) -> None:
        self.empty = asyncio.Event()
        self.empty.set()
        self.begun = False
        self._job: _Job | None = None

    def take(self, job: _Job) -> None:
        """Take a job; the hand must be empty."""
        self._job = job
        self.empty.clear()

    def done(self) -> None:
        """Report that the application is done with the job, and let go of it."""
        job = self._let_go()
        if job is not None:
            job.done()

    def failed(self, error: BaseException) -> None:
        """Report that the application failed at the job, or was cancelled, and let go of it."""
        job = self._let_go()
        if job is not None:
            job.failed(error)

    def _let_go(self) -> _Job | None:
        job, self._job = self._job, None
        self.begun = False
        self.empty.set()
        return job
