"""Django signals of the layer.

Receivers run in a thread of their own, ``kafka-layer-signals``, one after another, in the order of
the events. They may use the database and the layer, may be coroutines, and may be slow: they delay
only further signals. Up to 100,000 signals may wait; more are counted (``errors.signals``) and not
sent. ``close()``, and the end of the process, wait up to 5 s until all are sent. A receiver that
calls the closing layer meanwhile gets ``LayerClosed``.
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["connection_changed", "messages_dropped", "produce_failed"]

connection_changed = Signal()
"""All brokers were lost, or one came back.

Arguments: ``prefix`` (the layer's), ``connected`` (bool), ``seconds`` (how long the outage took;
0.0 when it begins).
"""

messages_dropped = Signal()
"""Messages were dropped. Sent for the first one of a cause, then in summaries every ten seconds.

Arguments: ``prefix`` (the layer's), ``cause`` (as in ``LayerStats.dropped``), ``number`` (of drops
since the last signal of the cause), ``detail`` (about one of them, or "").
"""

produce_failed = Signal()
"""The broker did not take a record; with ``await_produce`` the sender gets the error as well.

Arguments: ``prefix`` (the layer's), ``error`` (ProduceFailed or MessageTooLarge), ``topic``
(Kafka's name of the topic), ``stream`` (the stream's name; None for a message of the layer),
``key`` (bytes or None), ``value`` (the bytes on the wire), ``headers`` (a list of pairs).

For a stream ``key`` and ``value`` are the arguments of ``produce``: together with ``stream`` and
``headers`` a receiver can send the record again.
"""
