"""The base class of observers.

Code that carries messages calls ``kafka_layer.observe.counters.Stats``, which calls each observer:
the counters, the log and the thread that sends Django's signals. No observer runs code of the
application in the thread that calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.dispatch import Signal

from ..exceptions import Cause

__all__ = ["Observer"]


class Observer:
    """Is told what happens in one server. The methods do nothing; subclasses override some.

    Callers are any thread, event loops, delivery reports, and signal handlers or finalizers that
    interrupt another call. So no method but ``close`` may block, raise, or run code of the
    application.
    """

    def on_count(self, name: str, number: int) -> None:
        """Note that a counter grew.

        Args:
            name: ``delivered.{kind}``, ``failed``, ``reconnects``, ``errors.{name}``,
                ``refused.{cause}``, ``jobs.{outcome}.{channel}``, ``{client}.replaced``, or
                ``dropped.{cause}`` for drops that are counted, but not logged and not signalled.
            number: By how much; negative to take a count back.
        """

    def on_dropped(self, cause: Cause, number: int, detail: str) -> None:
        """Note that messages reached no receiver; count, log or signal them.

        Args:
            cause: Why.
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
