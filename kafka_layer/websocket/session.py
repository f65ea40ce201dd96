"""One websocket whose browser keeps its position: its frames, and its recovery.

Hot path: each message of a connected browser passes ``handle`` and ``send``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

from ..config.timings import Timings
from ..messages import Message, Recovery
from .frames import (
    SUBPROTOCOL,
    as_json,
    data_frame,
    place_frame,
    position_frame,
    verdict_frame,
)

__all__ = ["Receive", "RecoveringLayer", "Send", "Session"]

logger = logging.getLogger("kafka_layer")

Event = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class RecoveringLayer(Protocol):
    """The part of a layer that keeps positions."""

    timings: Timings

    def track(self, channel: str, on_change: Callable[[], None] | None = None) -> None:
        """Keep positions for a channel; ``on_change`` is called when a membership changes."""

    def position(self, channel: str) -> str:
        """Return the position of a tracked channel."""

    async def recover(self, channel: str, position: str, *, limit: int) -> Recovery:
        """Return what a channel missed since a position."""


class _Holders:
    """The sessions of one event loop that hold a frame back, with one timer for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sessions: dict[Session, None] = {}
        self._loop = weakref.ref(loop)
        self._is_timed = False

    def add(self, session: Session, longest: float) -> None:
        """Have a session release its frame within so many seconds."""
        self.sessions[session] = None
        loop = self._loop()
        if not self._is_timed and loop is not None:
            self._is_timed = True
            loop.call_later(longest, self._release)

    def _release(self) -> None:
        self._is_timed = False
        for session in list(self.sessions):
            session.release_overdue()


_holders: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Holders] = (
    weakref.WeakKeyDictionary()
)


class Session:
    """The server's side of the subprotocol on one connection; in the connection's event loop.

    It is *connecting* until the application's ``connect`` returned, then *recovering* until the
    browser is told what it missed, then *live*. A connection that speaks another subprotocol goes
    from *connecting* to *plain*: its bytes pass unchanged. Each state may end in *closed*.

    Args:
        send: The ASGI server's callable.
        position: The position that the browser offers; None if it has none.

    Attributes:
        state: As above.
        position: As given.
    """

    def __init__(self, send: Send, position: str | None) -> None:
        self.state: Literal["connecting", "recovering", "live", "plain", "closed"] = "connecting"
        self.position = position
        self._send = send
        self._layer: RecoveringLayer | None = None
        self._channel = ""
        self._timings = Timings()
        self._loop = asyncio.get_running_loop()
        self._holders = _holders.setdefault(self._loop, _Holders(self._loop))
        # Set once the application has accepted: the subprotocol that is spoken.
        self._accepted: str | None = None
        self._is_framed = False
        self._may_receive = asyncio.Event()
        # Of the message that is being handled: its place, whether its place is still to be told,
        # and its last text so far. "" where the message has no place, or none is being handled.
        self._place = ""
        self._owes_place = False
        self._held: str | None = None
        # The message of a history that is handled next, and the places of all such messages that
        # may come once more: by lane, in which messages come in the order of their offsets.
        self._of_history: Message | None = None
        self._shown: dict[str, set[int]] = {}
        # Whether a membership has changed since the position was told.
        self._changed = False
        self._next_position: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # The channel

    def track(self, layer: Any, channel: str, receive: Receive) -> Receive:
        """Have the layer keep positions for the connection's channel; before any membership.

        Args:
            layer: The layer, of whichever kind: one that keeps no positions is left alone.
            channel: The channel.
            receive: Receives from it.

        Returns:
            The function that receives from it, once the browser was told what it missed.
        """
        if not hasattr(layer, "recover"):
            return receive
        # A copy: the layer keeps on_change, and forgets the channel once its name is collected.
        self._layer, self._channel, self._timings = layer, str(channel), layer.timings
        layer.track(channel, self._note_change)

        async def receive_later() -> Any:
            await self._may_receive.wait()
            return await receive()

        return receive_later

    def connected(self) -> bool:
        """Go on after the application's ``connect``; return whether to recover now."""
        if self.state != "connecting":
            return False
        if self._accepted is None:
            # The application may wait for a message before it accepts.
            self._may_receive.set()
            return False
        if not self._is_framed:
            self.state = "plain"
            self._may_receive.set()
            return False
        self.state = "recovering"
        return True

    async def recover(self, limit: int) -> Recovery | None:
        """Return what the browser missed; None if it offers no position.

        Args:
            limit: How many messages are replayed at most.
        """
        if self.position is None:
            return None
        if self._layer is None or self._may_receive.is_set():
            return Recovery(False, "unavailable", [], 0.0)
        return await self._layer.recover(self._channel, self.position, limit=limit)

    async def tell_verdict(self, recovery: Recovery) -> None:
        """Say whether all that was missed was replayed; after its last message."""
        if self.state == "recovering":
            await self._write(verdict_frame(recovery))

    async def go_live(self) -> None:
        """Tell the position, now and from time to time, and let messages come."""
        if self.state == "recovering":
            self.state = "live"
            await self._tell_position_repeatedly()
        self._may_receive.set()

    def end(self) -> None:
        """Note that the connection has ended."""
        self.state = "closed"
        self._holders.sessions.pop(self, None)
        if self._next_position is not None:
            self._next_position.cancel()

    # Messages

    def show(self, message: Message) -> None:
        """Take note that a message of a history is handled next.

        It is no part of what comes to the channel, so its place says nothing of what lies before
        it. If it comes to the channel as well, it is not handled again.
        """
        self._of_history = message
        if message.place:
            lane, offset = _split(message.place)
            self._shown.setdefault(lane, set()).add(offset)

    async def handle(self, message: Message, dispatch: Callable[[Any], Awaitable[None]]) -> None:
        """Have a message handled, and tell its place with the last frame that is sent for it.

        Args:
            message: The message.
            dispatch: Calls the handler.
        """
        if self._changed and self.state == "live":
            await self._tell_position()
        if self._held is not None:
            # Of a handler that replays messages.
            await self._release("")
        is_of_history, self._of_history = message is self._of_history, None
        if self._shown and not is_of_history and self._was_shown(message.place):
            if self._is_framed:
                await self._write(place_frame(message.place))
            return
        place, owes_place = self._place, self._owes_place
        self._place = message.place if self._is_framed and not is_of_history else ""
        self._owes_place = False
        try:
            await dispatch(message)
            await self._tell_place()
        except Exception:
            # The connection ends. The message must not end the next one, too.
            self._owes_place = self._place != ""
            with contextlib.suppress(Exception):
                await self._tell_place()
            raise
        finally:
            self._place, self._owes_place = place, owes_place

    async def handled(self) -> None:
        """Tell a membership that changed meanwhile; after each event."""
        if self._changed and self.state == "live":
            await self._tell_position()

    async def send(self, event: Event) -> None:
        """Send an event of the application: the ``send`` of its ASGI callable."""
        kind = event["type"]
        if kind == "websocket.send" and self._is_framed:
            await self._send_data(event)
        elif kind == "websocket.accept":
            await self._accept(event)
        elif kind == "websocket.close":
            await self.close(event)
        else:
            await self._send(event)

    async def close(self, event: Event) -> None:
        """Close the connection; the frames of the message that is handled count as its last.

        Args:
            event: The ASGI event.
        """
        if self._is_framed:
            await self._tell_place()
        self.end()
        await self._send(event)

    async def _accept(self, event: Event) -> None:
        subprotocol = event.get("subprotocol") or SUBPROTOCOL
        self._accepted = subprotocol
        self._is_framed = subprotocol == SUBPROTOCOL
        await self._send({**event, "subprotocol": subprotocol})

    async def _send_data(self, event: Event) -> None:
        if self.state == "closed":
            return
        earlier, text, place = self._held, event.get("text"), self._place
        if place:
            # Before the first await: another task may send meanwhile.
            self._owes_place = True
            self._held = None if text is None else as_json(text)
            if text is not None:
                self._holders.add(self, self._timings.held_frame)
        if earlier is not None:
            # It is not the last of its message.
            await self._write(data_frame(earlier, ""))
        if text is None:
            await self._send(event)
        elif not place:
            await self._write(data_frame(as_json(text), ""))

    async def _tell_place(self) -> None:
        """Send the frame that was held back, with the place of its message."""
        if self._held is not None:
            await self._release(self._place)
        elif self._owes_place:
            await self._write(place_frame(self._place))
        self._owes_place = False

    async def _release(self, place: str) -> None:
        held, self._held = self._held, None
        self._holders.sessions.pop(self, None)
        if held is not None:
            await self._write(data_frame(held, place))

    def release_overdue(self) -> None:
        """Send the held frame of a handler that goes on for long."""
        self._start(lambda: self._release(""))

    async def _write(self, text: str) -> None:
        if self.state != "closed":
            await self._send({"type": "websocket.send", "text": text})

    def _was_shown(self, place: str) -> bool:
        """Tell whether a history had a message that comes to the channel."""
        if not place:
            return False
        lane, offset = _split(place)
        shown = self._shown.get(lane, set())
        was_shown = offset in shown
        self._shown[lane] = {each for each in shown if each > offset}
        if not self._shown[lane]:
            del self._shown[lane]
        return was_shown

    # Positions

    async def _tell_position(self) -> None:
        self._changed = False
        if self._layer is not None:
            position = self._layer.position(self._channel)
            await self._write(position_frame(position, self._timings.position_frame))

    async def _tell_position_repeatedly(self) -> None:
        await self._tell_position()
        # Spread, so that those who came at the same time are not served at the same time for ever.
        delay = self._timings.position_frame * random.uniform(0.7, 0.9)
        self._next_position = self._loop.call_later(
            delay, self._start, self._tell_position_repeatedly
        )

    def _note_change(self) -> None:
        """Note that a membership of the channel changed; any thread."""
        self._changed = True
        # In this order. Before that, the position that is told first knows of the change.
        if self.state == "live":
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._start, self.handled)

    # Beside the handlers

    def _start(self, act: Callable[[], Awaitable[None]]) -> None:
        if self.state != "closed":
            task = self._loop.create_task(self._carry_out(act))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            if self.state != "closed":
                await act()
        except Exception:
            if self.state != "closed":
                logger.warning("A frame could not be sent to a websocket", exc_info=True)


def _split(place: str) -> tuple[str, int]:
    lane, _, offset = place.rpartition(".")
    return lane, int(offset)
