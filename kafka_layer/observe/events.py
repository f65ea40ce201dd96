"""What can happen in a running server, and the base of those that are told of it.

Code that carries messages tells ``kafka_layer.observe.counters.Stats``, which tells each observer:
the counters, the log and the thread that runs Django's signals; one that feeds a metrics library
or a tracer would be one more. Nothing here imports Kafka, and no observer runs code of the
application in the thread that tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from django.dispatch import Signal

__all__ = ["Cause", "Observer"]


class Cause(str, Enum):
    """Why messages reached nobody, or a send was refused; the values are public.

    They are the keys of ``LayerStats.dropped`` and ``LayerStats.refused``, the ``cause`` of the
    signal ``messages_dropped`` and the word in brackets in the log. A member equals its value.
    """

    ANSWER = "answer"
    """The answer to another server's command could not be written."""
    CLOSED = "closed"
    """The channel was gone before its message came or was taken."""
    DECRYPT = "decrypt"
    """No key fits, or the value is encrypted and should not be, or the other way round."""
    DOUBTFUL = "doubtful"
    """The broker or a worker may have the message; nobody can tell, and nothing comes twice."""
    EXPIRED = "expired"
    """The message was older than ``expiry`` on arrival or when it was taken."""
    FLUSHED = "flushed"
    """``flush()`` was called."""
    FOREIGN = "foreign"
    """The name has a ``!`` and is none that a layer like this one gave."""
    FULL = "full"
    """A channel held ``capacity`` messages and did not take them."""
    OVERFLOW = "overflow"
    """The producer's queue was full."""
    PRODUCE = "produce"
    """The broker did not take the record."""
    REPLAYED = "replayed"
    """An encrypted token came a second time, or long after it was sealed."""
    RETENTION = "retention"
    """The log no longer held what this server was to read next."""
    UNDECODABLE = "undecodable"
    """The value is no message, or the key is not UTF-8."""

    def __str__(self) -> str:
        return str(self.value)


class Observer:
    """Is told what happens in one server; the methods do nothing, a subclass overrides some.

    Every method may be called from any thread, also by an event loop's, by a delivery report and
    while a signal handler or a finalizer interrupts another call: it must not block, raise, or run
    code of the application.
    """

    def on_count(self, name: str, number: int) -> None:
        """Note that a number grew.

        Args:
            name: ``delivered``, ``failed``, ``reconnects``, ``errors.{name}``, ``refused.{cause}``,
                ``{client}.replaced``, or ``dropped.{cause}`` where messages are counted only.
            number: By how much; negative where something was taken back.
        """

    def on_dropped(self, cause: str, number: int, detail: str) -> None:
        """Note that messages reached nobody, and this is to be counted, logged and signalled.

        Args:
            cause: Why; a ``Cause``, or its value.
            number: How many messages; 0 where none is known to be missing.
            detail: What happened to the last of them, a sentence for the log.
        """

    def on_signal(self, signal: Signal, sender: object, arguments: Mapping[str, Any]) -> None:
        """Note that one of the signals of ``kafka_layer.signals`` is to be sent.

        Args:
            signal: The signal.
            sender: Its sender.
            arguments: What its receivers get, by name.
        """

    def tick(self) -> None:
        """Do what became due; one thread calls this about once a second."""

    def close(self, timeout: float) -> None:
        """Finish what is under way: the server was closed.

        Args:
            timeout: Seconds that this may block. This is the one method that may.
        """
