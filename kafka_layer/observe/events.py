"""Causes of drops, and the base class of observers.

Code that carries messages calls ``kafka_layer.observe.counters.Stats``, which calls each observer:
the counters, the log and the thread that sends Django's signals. An observer for a metrics library
or a tracer would be one more. No observer runs code of the application in the thread that calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from django.dispatch import Signal

__all__ = ["Cause", "Observer"]


class Cause(str, Enum):
    """Why messages reached no receiver, or a send was refused; the values are public.

    They are the keys of ``LayerStats.dropped`` and ``LayerStats.refused``, the ``cause`` of the
    signal ``messages_dropped`` and the word in brackets in the log. A member equals its value.
    """

    ANSWER = "answer"
    """The answer to another server's command could not be written."""
    CLOSED = "closed"
    """The channel was gone before its message came or was taken."""
    DECRYPT = "decrypt"
    """No key decrypts the value; or it is encrypted without keys being set, or the reverse."""
    DOUBTFUL = "doubtful"
    """In doubt: the broker or another worker may have the message. It never comes twice."""
    DUPLICATE = "duplicate"
    """A message with the same idempotency key was sent to the same address shortly before."""
    EXPIRED = "expired"
    """The message was older than ``expiry`` on arrival or when it was taken."""
    FLUSHED = "flushed"
    """``flush()`` was called."""
    FOREIGN = "foreign"
    """The name has a ``!``, and no layer of this package can have made it."""
    FULL = "full"
    """A channel held ``capacity`` messages and did not take them."""
    GAP = "gap"
    """A tracked channel fell so far behind that its messages are not kept any more."""
    OVERFLOW = "overflow"
    """The producer's queue was full."""
    PRODUCE = "produce"
    """The broker did not take the record."""
    REPLAYED = "replayed"
    """An encrypted token came a second time, or long after it was sealed."""
    RETENTION = "retention"
    """The broker deleted records before this server read them."""
    UNDECODABLE = "undecodable"
    """The value is no message, or the key is not UTF-8."""

    def __str__(self) -> str:
        return str(self.value)


class Observer:
    """Gets to know what happens in one server. The methods do nothing; subclasses override some.

    Callers are any thread, event loops, delivery reports, and signal handlers or finalizers that
    interrupt another call. So no method but ``close`` may block, raise, or run code of the
    application.
    """

    def on_count(self, name: str, number: int) -> None:
        """Note that a counter grew.

        Args:
            name: ``delivered``, ``failed``, ``reconnects``, ``errors.{name}``, ``refused.{cause}``,
                ``{client}.replaced``, or ``dropped.{cause}`` where messages are counted only.
            number: By how much; negative to take a count back.
        """

    def on_dropped(self, cause: str, number: int, detail: str) -> None:
        """Note that messages reached no receiver; count, log or signal them.

        Args:
            cause: Why; a ``Cause``, or its value.
            number: How many messages; 0 if none is known to be missing.
            detail: What happened to the last of them, a sentence for the log.
        """

    def on_signal(self, signal: Signal, sender: object, arguments: Mapping[str, Any]) -> None:
        """Send one of the signals of ``kafka_layer.signals``.

        Args:
            signal: The signal.
            sender: Its sender.
            arguments: Its receivers' arguments, by name.
        """

    def tick(self) -> None:
        """Do what is due; one thread calls this about once a second."""

    def close(self, timeout: float) -> None:
        """Finish: the server is closed.

        Args:
            timeout: Seconds that this may block.
        """
