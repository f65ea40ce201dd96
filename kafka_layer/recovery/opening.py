"""Makes the messages that receives of tracked channels return.

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
from .channel import READ_ON, Gap, TrackedChannel
from .mailbox import SharedMailbox

__all__ = ["Opening"]

_SEND_CONN = Topic.SEND_CONN


class Opening:
    """Makes messages for the tracked channels of one server; any event loop.

    Args:
        decode: Decodes a message; raises UnreadableRecord.
        patience: Seconds that a message of the log may wait in addition to ``expiry``.
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
        """Make a message of an envelope that was taken.

        Returns:
            The message; None if it expired or cannot be decoded, which is counted.
        """
        mailbox.last_seen = now = monotonic()
        topic = envelope.topic
        try:
            if topic is None or topic is _SEND_CONN:
                return self._open_other(mailbox, envelope)
            if envelope.deadline + self._patience < now:
                return _channel(mailbox).gap(envelope)
            if mailbox.__class__ is SharedMailbox:
                return _channel(mailbox).message(envelope, self._decode(envelope.payload))
            # Fast path: it reads no object but the mailbox; see TrackedMailbox.
            message: TakenMessage = TakenMessage(self._decode(envelope.payload))
        except UnreadableRecord as error:
            self._count_unreadable(envelope, error)
            return None
        message.mailbox, message.envelope = mailbox, envelope
        return message

    def _open_other(self, mailbox: Mailbox, envelope: Envelope) -> Message | None:
        """Make a message that was sent to this channel alone, or a gap."""
        channel = _channel(mailbox)
        if isinstance(envelope, Gap):
            return channel.gap(envelope)
        if envelope is READ_ON:
            # The take began before the channel fell behind.
            return None
        if envelope.deadline < monotonic():
            # It cannot be recovered, so it expires like messages of other channels.
            self._count_late(mailbox)
            return None
        now = self._now()
        sign = partial(channel.sign_behind, envelope, now, channel.elsewhere())
        return Message(self._decode(envelope.payload), sign, now, False)


def _channel(mailbox: Mailbox) -> TrackedChannel:
    return cast("TrackedChannel", mailbox.tracked)
