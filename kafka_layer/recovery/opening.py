"""From what a tracked channel took to the message that its receive returns.

Hot path: every message of a tracked channel passes ``Opening.open``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from ..config.realtime import monotonic
from ..delivery.mailbox import Envelope, Mailbox
from ..exceptions import UnreadableRecord
from ..messages import Message, TakenMessage
from ..wire.topics import Topic
from .channel import READ_ON, Gap, SharedMailbox, TrackedChannel

__all__ = ["Opening"]

_SEND_CONN = Topic.SEND_CONN


class Opening:
    """Makes messages for the tracked channels of one server; any event loop.

    Args:
        decode: Decodes a message; raises UnreadableRecord.
        patience: How much longer than ``expiry`` a message of the log may wait, in seconds.
        now: Returns the broker's time.
        count_late: Counts a message to one channel that expired in its mailbox.
        count_unreadable: Counts a message that cannot be decoded, once.
    """

    def __init__(
        self,
        decode: Callable[[Any], dict[str, Any]],
        patience: float,
        now: Callable[[], float],
        count_late: Callable[[Mailbox], object],
        count_unreadable: Callable[[Envelope, UnreadableRecord], object],
    ) -> None:
        self._decode = decode
        self._patience = patience
        self._now = now
        self._count_late = count_late
        self._count_unreadable = count_unreadable

    def open(self, mailbox: Mailbox, envelope: Envelope) -> Message | None:
        """Make a message of what was taken.

        Returns:
            The message; None, counted, if it expired or cannot be decoded.
        """
        mailbox.last_seen = now = monotonic()
        place = envelope.place
        try:
            if place is None or place[0] is _SEND_CONN:
                return self._open_other(mailbox, envelope)
            if envelope.deadline + self._patience < now:
                return _channel(mailbox).gap(envelope)
            if mailbox.__class__ is SharedMailbox:
                return _channel(mailbox).message(envelope, self._decode(envelope.payload))
            # It touches nothing but the mailbox; see TrackedMailbox.
            message: TakenMessage = TakenMessage(self._decode(envelope.payload))
        except UnreadableRecord as error:
            self._count_unreadable(envelope, error)
            return None
        message.mailbox, message.envelope = mailbox, envelope
        return message

    def _open_other(self, mailbox: Mailbox, envelope: Envelope) -> Message | None:
        """Make a message of one to this channel alone, or of what is none."""
        channel = _channel(mailbox)
        if isinstance(envelope, Gap):
            return channel.gap(envelope)
        if envelope is READ_ON:
            # Its take began before the channel fell behind.
            return None
        if envelope.deadline < monotonic():
            # Nobody recovers it, so it expires as messages of other channels do.
            self._count_late(mailbox)
            return None
        now = self._now()
        sign = partial(channel.sign_behind, envelope, now)
        return Message(self._decode(envelope.payload), sign, now, False)


def _channel(mailbox: Mailbox) -> TrackedChannel:
    return cast("TrackedChannel", mailbox.tracked)
