"""The errors of the layer, beside those of Channels and Django.

``send`` and its siblings also raise ``channels.exceptions.ChannelFull`` and
``channels.exceptions.MessageTooLarge``; a wrong setting raises
``django.core.exceptions.ImproperlyConfigured``.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "BrokerUnavailable",
    "Cause",
    "CommandFailed",
    "GroupAckTimeout",
    "HistoryUnavailable",
    "InvalidPosition",
    "KafkaLayerError",
    "LayerClosed",
    "ProduceFailed",
    "Reason",
    "RegistryAway",
    "TopicError",
    "UnreadableRecord",
]


class KafkaLayerError(Exception):
    """Base of every error that this package defines."""


class LayerClosed(KafkaLayerError):
    """The layer was closed, in this or in another thread, while a call waited for it.

    It ends each ``receive`` that waits, so a websocket closes and its browser connects again. The
    next use of the layer starts it again.
    """


class BrokerUnavailable(KafkaLayerError, ConnectionError):
    """No broker answered in time, or it refused the connection."""


class TopicError(KafkaLayerError):
    """A topic is missing, cannot be created or cannot be used as it is."""


class ProduceFailed(KafkaLayerError):
    """The broker did not take a record; the text says which record and why."""


class RegistryAway(KafkaLayerError, ConnectionError):
    """A schema registry did not answer in time, or gave no valid answer; a retry may help."""


class GroupAckTimeout(KafkaLayerError, TimeoutError):
    """The server that owns a channel did not acknowledge a command in time."""


class CommandFailed(KafkaLayerError):
    """The server that owns a channel received a command and could not carry it out."""


class HistoryUnavailable(KafkaLayerError):
    """Kafka could not be asked for the messages that it holds; the text says why."""


class InvalidPosition(KafkaLayerError, ValueError):
    """A str is no position, or none of this layer; the error's text says why."""


Cause = Literal[
    # The answer to another server's command could not be written.
    "answer",
    # The channel was gone before its message came or was taken.
    "closed",
    # No key decrypts the value; or it is encrypted and no keys are set, or the reverse.
    "decrypt",
    # In doubt: the broker or another worker may have the message, so it is not delivered again.
    "doubtful",
    # A message with the same idempotency key was sent to the same address shortly before.
    "duplicate",
    # The message was older than ``expiry`` on arrival or when it was taken.
    "expired",
    # ``flush()`` was called.
    "flushed",
    # A function of a stream's settings raised, or returned a wrong type.
    "function",
    # The name has a ``!``, but no layer of this package can have made it.
    "foreign",
    # A channel held ``capacity`` messages and did not take them.
    "full",
    # A tracked channel fell so far behind that its messages are not kept any more.
    "gap",
    # A stream's setting ``group`` or ``user`` gave an invalid name for a record.
    "name",
    # The producer's queue was full.
    "overflow",
    # The broker did not take the record.
    "produce",
    # An encrypted token came a second time, or long after it was sealed.
    "replayed",
    # The broker deleted records before this server read them.
    "retention",
    # The schema registry does not know the schema of a stream's record.
    "schema",
    # A template of a stream's settings names a part that a record does not have.
    "template",
    # The value is no message, or the key is not UTF-8; of a stream: its codec cannot decode it.
    "undecodable",
]
"""Why messages reached no receiver, or a send was refused.

These are the keys of ``LayerStats.dropped`` and ``LayerStats.refused``, the ``cause`` of the signal
``messages_dropped`` and the word in brackets in the log.
"""


Reason = Literal[
    "expired",
    "truncated",
    "epoch",
    "future",
    "limit",
    "undecodable",
    "flushed",
    "user",
    "invalid",
    "timeout",
    "unavailable",
]
"""Why a recovery replays nothing; docs/recovery.md tells what each means."""


class UnreadableRecord(KafkaLayerError, ValueError):
    """A record or a message that cannot be decoded.

    Attributes:
        cause: The name under which the layer counts it.
    """

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause

    def __reduce__(self) -> tuple[type[UnreadableRecord], tuple[Cause, str]]:
        # Each receive that waits gets a copy.
        return type(self), (self.cause, str(self))
