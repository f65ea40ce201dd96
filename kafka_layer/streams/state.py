"""The state of a stream on one server. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Situation", "StreamState"]


class StreamState(str, enum.Enum):
    """The states of a stream on one server; ``Situation`` decides which one it is."""

    IDLE = "idle"
    WAITING = "waiting"
    HELD_UP = "held up"
    LOADING = "loading"
    READING = "reading"
    PAUSED = "paused"
    STOPPED = "stopped"
    CLOSED = "closed"


@dataclass(frozen=True)
class Situation:
    """The facts that decide on the state of a stream: the first row that holds.

    ======== ==================================================== ============================
    state    while                                                ends
    ======== ==================================================== ============================
    CLOSED   its server was closed                                never
    PAUSED   it was paused                                        it is resumed
    STOPPED  a record or the client failed, with ``on_error``     it is resumed, or sought
             ``stop``, or for good
    IDLE     the server has no channel, and had none for a while  a channel is opened
    WAITING  no topic of it exists, or no broker has answered     a check finds a topic
    HELD_UP  a schema registry does not answer                    the registry answers
    LOADING  the last record of each group is not known yet       the topic is read to its end
    READING  none of these                                        any of these
    ======== ==================================================== ============================

    Records are read in WAITING (once there are any), HELD_UP, LOADING and READING, and reach
    channels in READING alone. ``Reading`` decides on the first four states, the source of the
    stream on WAITING, ``Delivery`` on HELD_UP, and ``LatestRecords`` on LOADING.

    Attributes:
        closed: Whether its server was closed.
        paused: Whether it was paused.
        failure: What stopped it; empty if nothing did.
        idle: Whether the server has no channel.
        missing: Whether no topic is known.
        held_up: What it waits for; empty if for nothing.
        loading: Whether it does not know the last record of each group yet.
    """

    closed: bool = False
    paused: bool = False
    failure: str = ""
    idle: bool = True
    missing: bool = True
    held_up: str = ""
    loading: bool = False

    @property
    def state(self) -> StreamState:
        """The state."""
        if self.closed:
            return StreamState.CLOSED
        if self.paused:
            return StreamState.PAUSED
        if self.failure:
            return StreamState.STOPPED
        if self.idle:
            return StreamState.IDLE
        if self.missing:
            return StreamState.WAITING
        if self.held_up:
            return StreamState.HELD_UP
        return StreamState.LOADING if self.loading else StreamState.READING

    @property
    def reads(self) -> bool:
        """Whether records are read."""
        return not (self.closed or self.paused or self.failure or self.idle)
