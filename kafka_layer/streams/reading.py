"""Whether a stream is read on one server, and from where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..config.realtime import wall_clock
from ..config.streams import Start, place_at
from ..config.threads import RLock
from ..delivery.registry import Registry
from ..delivery.tickets import Ticket
from ..transport import OnEpoch, OnStreamPositions, StreamSource
from .latest import LatestRecords
from .state import Situation

__all__ = ["Reading"]


class Reading:
    """Decides whether a stream is read: while its server has channels; any thread.

    ======== ============================================= ===================================
    state    begins with                                   ends with
    ======== ============================================= ===================================
    CLOSED   ``close``, ``abandon``                        nothing
    PAUSED   ``pause``                                     ``resume``
    STOPPED  ``stop``: a record failed; ``fail``: the      ``resume``, ``seek``; both open another
             client did, and is gone                       client if it is gone
    IDLE     the constructor; ``look_for_channels`` after  ``wake``
             a time without channels
    ======== ============================================= ===================================

    Several may hold at the same time; ``Situation`` decides which one is shown. While none holds,
    records are read.

    Args:
        open_source: Returns what reads the stream; called with the first channel.
        start: Where the stream begins. A stream with last records ignores it, and begins at the
            oldest record.
        latest: The last records of the stream; None unless the settings ask for them.
        registry: The server's channels.
        idle_after: Seconds without a channel until it is IDLE.
        on_idle: Called when it becomes IDLE, with the lock held; must not block.

    Attributes:
        situation: Its fields for the states above decide whether records are read. Replaced, never
            changed, so that any thread may read it.
        source: Reads the stream; None until it is open, and after it failed.
        lock: Guards this object. Re-entrant: a signal handler may interrupt the holder and use the
            layer.
    """

    def __init__(
        self,
        open_source: Callable[[], StreamSource],
        start: Start,
        latest: LatestRecords[Any] | None,
        registry: Registry,
        idle_after: float,
        on_idle: Callable[[], object],
    ) -> None:
        self.situation = Situation()
        self.source: StreamSource | None = None
        self.lock = RLock()
        self._open_source = open_source
        # Where the source begins, if it is not open yet.
        self._start = start
        self._latest = latest
        self._registry = registry
        self._idle_after = idle_after
        self._on_idle = on_idle
        # The ticket of the last ``wake`` that had an effect.
        self._woken: Ticket[None] = Ticket.resolved(None)
        # Gets the positions from which the partitions are read, also of a source that is opened
        # later.
        self._listener: tuple[OnStreamPositions, OnEpoch] | None = None
        # Since when the reading thread has found no channel; None while there is one.
        self._empty_since: float | None = None

    @property
    def awake(self) -> bool:
        """Whether it is not idle, and its start is complete.

        Read it after opening a channel: if it is True, the stream has seen the channel.
        """
        with self.lock:
            return not self.situation.idle and self._woken.done

    def wake(self) -> Ticket[None]:
        """Read, because the server has a channel.

        Returns:
            A ticket, the same one for all callers while it is unresolved. It is resolved once every
            later record will be read, or if that may take long; or by a caller that stops waiting.
        """
        with self.lock:
            if self.situation.idle:
                self._note(idle=False)
                self._empty_since = None
                self._woken = self._read_on()
            return self._woken

    def pause(self) -> Ticket[None]:
        """Stop reading; returns a ticket, resolved when no record is delivered any more."""
        with self.lock:
            self._note(paused=True)
            return self._read_as_decided()

    def resume(self) -> Ticket[None]:
        """Continue where reading stopped, with the record that failed; a ticket as ``wake``."""
        with self.lock:
            self._note(paused=False, failure="")
            return self._read_as_decided()

    def seek(self, start: Start) -> Ticket[None]:
        """Read from another place on; returns a ticket, resolved when all partitions are there."""
        with self.lock:
            self._note(failure="")
            if self.source is None:
                self._start = start
                return self._read_as_decided()
            sought = self.source.seek(place_at(start, wall_clock()))
            self._read_as_decided()
            return sought

    def stop(self, failure: str) -> None:
        """Stop reading, because a record failed; called by the reading thread.

        Args:
            failure: What happened, as text.
        """
        with self.lock:
            self._note(failure=failure)
            self._read_as_decided()

    def fail(self, failure: str) -> None:
        """Note that the source has ended; called by its thread. As ``stop``."""
        with self.lock:
            self.source = None
            self._note(failure=failure)

    def follow(self, listener: OnStreamPositions, on_epoch: OnEpoch) -> None:
        """Report the positions of the partitions from now on; see ``StreamSource.follow``."""
        with self.lock:
            self._listener = listener, on_epoch
            if self.source is not None:
                self.source.follow(listener, on_epoch)

    def look_for_channels(self, now: float) -> None:
        """Become IDLE if the server has had no channel for a while; called by the reading thread.

        Args:
            now: The time on ``monotonic()``.
        """
        if len(self._registry):
            self._empty_since = None
            if self.situation.idle:
                self.wake()
        elif self._empty_since is None:
            self._empty_since = now
        elif now - self._empty_since >= self._idle_after and not self.situation.idle:
            with self.lock:
                # In this order: a thread that opens a channel either sees that the stream is idle
                # and wakes it, or its channel is seen here.
                self._note(idle=True)
                if len(self._registry):
                    self._note(idle=False)
                else:
                    self._read_as_decided()
                    self._on_idle()

    def close(self) -> None:
        """End for good; the transport ends the source."""
        with self.lock:
            self._note(closed=True)
            if self.source is not None:
                self.source.stop()

    def abandon(self) -> None:
        """Stop reading, in a forked child."""
        self.lock = RLock()
        self._note(closed=True)
        self.source = None

    def _note(self, **known: Any) -> None:
        self.situation = replace(self.situation, **known)

    def _read_on(self) -> Ticket[None]:
        """Read after a time without channels; the lock is held."""
        if self.source is not None and self.situation.reads:
            # Records that were written while the server had no channel have no receiver here.
            if self._latest is not None:
                self._latest.load()
            elif self._start == "latest":
                self.source.seek("latest")
        return self._read_as_decided()

    def _read_as_decided(self) -> Ticket[None]:
        """Start or stop the source as the states say; the lock is held."""
        reads = self.situation.reads
        if self.source is None:
            return self._open() if reads else Ticket.resolved(None)
        return self.source.read(reads)

    def _open(self) -> Ticket[None]:
        source = self.source = self._open_source()
        start: Start = "earliest" if self._latest is not None else self._start
        begun = source.begin(place_at(start, wall_clock()))
        if self._listener is not None:
            source.follow(*self._listener)
        return begun
