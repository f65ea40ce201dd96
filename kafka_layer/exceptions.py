"""The errors of the layer, beside those of Channels and Django.

``send`` and its siblings also raise ``channels.exceptions.ChannelFull`` and
``channels.exceptions.MessageTooLarge``; a wrong setting raises
``django.core.exceptions.ImproperlyConfigured``.
"""

from __future__ import annotations

__all__ = [
    "BrokerUnavailable",
    "CommandFailed",
    "GroupAckTimeout",
    "HistoryUnavailable",
    "InvalidPosition",
    "KafkaLayerError",
    "LayerClosed",
    "ProduceFailed",
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


class GroupAckTimeout(KafkaLayerError, TimeoutError):
    """The server that owns a channel did not acknowledge a command in time."""


class CommandFailed(KafkaLayerError):
    """The server that owns a channel received a command and could not carry it out."""


class HistoryUnavailable(KafkaLayerError):
    """Kafka could not be asked for the messages that it holds; the text says why."""


class InvalidPosition(KafkaLayerError, ValueError):
    """A text is no position, or none of this layer; the text says why."""


class UnreadableRecord(KafkaLayerError, ValueError):
    """A record or a message that cannot be decoded.

    Attributes:
        cause: The name under which the layer counts it (``undecodable``, ``decrypt`` …).
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
